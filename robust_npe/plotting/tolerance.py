"""Tolerance plot: how far the posterior moves against how far the observation was moved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robust_npe.plotting.names import line_name, radius_name, task_name
from robust_npe.plotting.style import (
    COLORS,
    NothingToDrawError,
    add_caption,
    legend_entries,
    line_colors,
    new_figure,
    require_one_setting,
    seeds_note,
    style,
)

__all__ = ["draw_tolerance", "tolerance_colors", "tolerance_plot", "tolerance_rows"]

LABELS = {
    "kl_forward": r"$D_{KL}(q(\theta|x)\,\|\,q(\theta|\tilde x))$, nats",
    "kl_reverse": r"$D_{KL}(q(\theta|\tilde x)\,\|\,q(\theta|x))$, nats",
}
MOVEMENT = "legitimate_movement"
TRUTH = "true posterior"
CERTIFIED = "certified"
POINTS = "Points: medians over observations; bars: 15 to 85 %. Radii are not to scale."
BELOW = "On the axis (hollow): not told from zero, below the resolution of the estimate."
BOUND = (
    "Dotted: certified medians, which no perturbation exceeds (smoothing: of its ideal average)."
)
BROKEN = "At the upper end (hollow): not finite."


def tolerance_plot(
    table: pd.DataFrame, metric: str = "kl_forward", compare: str = "attack"
) -> Figure:
    """Draw a divergence against epsilon, one panel per task and one line per attack or defense.

    Points are medians over observations, bars the 15 and 85 % quantiles; where several runs share
    a panel and a line, they must differ by nothing but the seed of training (equal `seeds.data`),
    and their mean is drawn. Dashed: how far the true posterior itself moves under the same
    perturbations, where that is known. Dotted: what is certified (`certified_<metric>`), where that
    is within the axis. Hollow at the ends of the logarithmic axis: what it cannot show, and what is
    not more than two standard errors (`median_se`) above zero.

    Args:
        table: Tidy results of one or more runs.
        metric: `kl_forward` or `kl_reverse`.
        compare: What the lines are: a column such as `attack`, `defense` or `beta`.

    Raises:
        NothingToDrawError: The table has no rows of this metric at a radius above 0.
        ValueError: A line would mix settings.
    """
    rows = tolerance_rows(table, metric)
    tasks = list(dict.fromkeys(rows[rows.metric == metric].task))
    colors = tolerance_colors(rows, compare)
    with style():
        figure = new_figure(2.6 * len(tasks) + 1.6, 2.8)
        panels = figure.subplots(1, len(tasks), squeeze=False)[0]
        notes = [POINTS, *seeds_note(rows)]
        for axes, task in zip(panels, tasks, strict=True):
            notes += draw_tolerance(axes, rows[rows.task == task], metric, compare, colors)
            axes.set_title(task_name(task))
        panels[0].set_ylabel(LABELS.get(metric, metric))
        order = [*(line_name(compare, name) for name in colors), TRUTH, CERTIFIED]
        # outside, where it covers no point
        figure.legend(*legend_entries(panels, order), loc="outside right center")
        add_caption(figure, notes)
    return figure


def tolerance_rows(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return what a tolerance plot shows; radius 0 is none: nothing has moved there.

    Raises:
        NothingToDrawError: There is nothing.
    """
    rows = table[(table.attack != "none") & (table.epsilon > 0)]
    rows = rows[rows.metric.isin([metric, MOVEMENT, f"{CERTIFIED}_{metric}"])]
    if not (rows.metric == metric).any():
        raise NothingToDrawError(f"no rows with metric {metric} at a radius above 0")
    return rows


def tolerance_colors(rows: pd.DataFrame, compare: str) -> dict[str, str]:
    """Return the colours of all lines, by the column that tells them apart, in order."""
    lines = rows[rows.metric != MOVEMENT]
    names = lines[compare].drop_duplicates().sort_values().map(_text)
    known = {name: i for i, name in enumerate(COLORS)}
    return line_colors(sorted(names, key=lambda name: known.get(name.split(" ")[0], len(known))))


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def draw_tolerance(
    axes: Axes, rows: pd.DataFrame, metric: str, compare: str, colors: dict[str, str]
) -> list[str]:
    """Draw one panel: equally spaced radii, logarithmic divergence.

    Args:
        axes: Where.
        rows: Of one task, from `tolerance_rows`.
        metric: As in `tolerance_plot`.
        compare: As in `tolerance_plot`.
        colors: From `tolerance_colors`, equal in all panels of a figure.

    Returns:
        What a reader must be told.
    """
    epsilons = sorted(rows.epsilon.unique())
    groups = {name: rows[rows[compare].map(_text) == name] for name in colors}
    lines = {name: _points(group, metric) for name, group in groups.items()}
    truths = {name: _points(group, MOVEMENT)[["median"]] for name, group in groups.items()}
    axes.set_yscale("log")
    axes.set_ylim(*_limits(pd.concat([*lines.values(), *truths.values()])))
    notes: list[str] = []
    step = min(0.12, 0.8 / len(colors))
    for i, (name, color) in enumerate(colors.items()):
        require_one_setting(groups[name], f"{compare} {name}")
        shift = step * (i - (len(colors) - 1) / 2)
        x = pd.Series(np.arange(len(epsilons)) + shift, index=epsilons)
        if len(truths[name]):
            notes += _draw_truth(axes, x, truths[name]["median"], color)
        certified = _points(groups[name], f"{CERTIFIED}_{metric}")["median"]
        if len(certified):
            notes += _draw_certified(axes, x, certified, color)
        if len(lines[name]):
            notes += _draw_line(axes, x, lines[name], color, line_name(compare, name))
    axes.set_xticks(range(len(epsilons)), [f"{e:g}" for e in epsilons])
    axes.set_xlim(-0.5, len(epsilons) - 0.5)
    axes.set_xlabel(radius_name(rows))
    return notes


def _points(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Median, q15 and q85 by radius, means over seeds, NaN where that of one seed is.

    What is not more than two standard errors above zero counts as zero.
    """
    values = rows[rows.metric == metric].groupby(["epsilon", "statistic"]).value
    means = values.agg(lambda value: value.mean(skipna=False)).unstack("statistic")
    points = means.reindex(columns=["median", "q15", "q85", "median_se"])
    error = points.pop("median_se").fillna(0)
    points = points.apply(lambda column: column.fillna(points["median"]))
    points.loc[points["median"] <= 2 * error, ["median", "q15"]] = 0.0
    return points


def _limits(points: pd.DataFrame) -> tuple[float, float]:
    """Ends of the logarithmic axis, around everything that it can show."""
    values = points.to_numpy().ravel()
    shown, margin = values[(values > 0) & np.isfinite(values)], 1.6
    if not len(shown):
        return 1e-3, 1.0
    return shown.min() / margin ** (1 + (values <= 0).any()), shown.max() * margin


def _draw_truth(axes: Axes, x: pd.Series, median: pd.Series, color: str) -> list[str]:
    """Movement of the true posterior; its entry in the legend stands for all colours."""
    look: dict[str, Any] = {"linestyle": "--", "linewidth": 1, "marker": "x", "markersize": 3}
    y = median.fillna(np.inf).clip(*axes.get_ylim())
    axes.plot(x[median.index], y, color=color, clip_on=False, **look)
    axes.plot([], [], color=COLORS["truth"], label=TRUTH, **look)
    return _notes(median)


def _draw_certified(axes: Axes, x: pd.Series, median: pd.Series, color: str) -> list[str]:
    """Bounds, thin and without markers; one entry in the legend, as for the true posterior."""
    look: dict[str, Any] = {"linestyle": ":", "linewidth": 0.9, "scaley": False}
    y = median.where(np.isfinite(median))
    axes.plot(x[median.index], y, color=color, **look)
    axes.plot([], [], color=COLORS["truth"], label=CERTIFIED, **look)
    return [BOUND]


def _draw_line(axes: Axes, x: pd.Series, points: pd.DataFrame, color: str, label: str) -> list[str]:
    """Medians and bars; hollow and joined by dots where they lie outside of the axis."""
    x, y = x[points.index], points.fillna(np.inf).clip(*axes.get_ylim())
    bars = np.array([y["median"] - y.q15, y.q85 - y["median"]]).clip(min=0)
    below, broken = points["median"] <= 0, ~np.isfinite(points["median"])
    look: dict[str, Any] = {"markersize": 3, "elinewidth": 0.8, "linewidth": 1.2, "color": color}
    shown = y["median"].where(~below & ~broken)
    axes.errorbar(x, shown, yerr=bars, marker="o", label=label, **look)
    if shown.isna().any():
        axes.plot(x, y["median"], ":", color=color, linewidth=0.8, zorder=1)
    hollow = look | {"markersize": 5, "markerfacecolor": "white", "clip_on": False, "zorder": 3}
    for outside, marker in ((below, "o"), (broken, "^")):
        if outside.any():
            where = x[outside], y["median"][outside]
            axes.errorbar(*where, yerr=bars[:, outside], fmt=marker, **hollow)
    return _notes(points["median"])


def _notes(median: pd.Series) -> list[str]:
    below, broken = (median <= 0).any(), (~np.isfinite(median)).any()
    return [note for note, found in ((BELOW, below), (BROKEN, broken)) if found]
