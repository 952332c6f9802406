"""Tolerance plot: how far the posterior moves against how far the observation was moved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from robust_npe.plotting.cells import (
    NothingToDrawError,
    cells,
    marks_note,
    points,
    seeds_note,
    text_of,
)
from robust_npe.plotting.columns import tidy
from robust_npe.plotting.describing import settings_note, setup_note
from robust_npe.plotting.layout import (
    Part,
    add_legend,
    figure_of,
    label_axes,
    panels_height,
    task_panels,
)
from robust_npe.plotting.lines import BELOW, BROKEN, POINTS, Quantity, draw_panel, looks_of, places
from robust_npe.plotting.names import (
    in_paper_order,
    line_name,
    radius_name,
)
from robust_npe.plotting.style import COLORS, Look

__all__ = [
    "BOUND",
    "LABELS",
    "draw_tolerance",
    "tolerance_looks",
    "tolerance_part",
    "tolerance_plot",
    "tolerance_rows",
]

LABELS = {
    "kl_forward": "movement of the posterior,\n"
    r"$\mathrm{KL}(q(\theta|x)\,\|\,q(\theta|\tilde x))$, nats",
    "kl_reverse": "movement of the posterior,\n"
    r"$\mathrm{KL}(q(\theta|\tilde x)\,\|\,q(\theta|x))$, nats",
}
MOVEMENT = "legitimate_movement"
BOUND = "analytic_bound"
TRUTH = "true posterior"
CERTIFIED = "certified"
LARGEST = "Grey: the most that the true posterior can move."
CERTIFICATE = (
    "Dotted: certified medians, which no perturbation exceeds (smoothing: of its ideal average)."
)
MOVED = "Dashed: how far the true posterior moves under the same perturbations."
EXACT = "exact bound"


@tidy
def tolerance_plot(
    table: pd.DataFrame, metric: str = "kl_forward", compare: str = "attack"
) -> Figure:
    """Draw a divergence against epsilon, one panel per task and one line per attack or defense.

    Points are medians over observations, bars the 15 and 85 % quantiles; where several runs share
    a panel and a line, they must differ by nothing but their seeds: points and bars are then means
    over seeds, and a band shows the range of their medians. Dashed: how far the true posterior
    itself moves under the same perturbations, where that is known. Dotted: what is certified
    (`certified_<metric>`), where that is within the axis. Hollow at the ends of the logarithmic
    axis: what it cannot show, and what is not more than two standard errors (`median_se`) above
    zero.

    Args:
        table: Tidy results of one or more runs.
        metric: `kl_forward` or `kl_reverse`.
        compare: What the lines are: a column such as `attack`, `defense` or `beta`.

    Raises:
        NothingToDrawError: The table has no rows of this metric at a radius above 0.
        ValueError: A line would mix settings.
    """
    part = tolerance_part(table, metric, compare)
    return figure_of([part], setup_note(table, part.tasks))


def tolerance_part(
    table: pd.DataFrame, metric: str = "kl_forward", compare: str = "attack"
) -> Part:
    """Return the part of a figure that `tolerance_plot` consists of; arguments as there."""
    rows = tolerance_rows(table, metric)
    own = rows[rows.metric == metric]
    looks, tasks = tolerance_looks(rows, compare), in_paper_order(own.task)

    def draw(place: SubFigure) -> list[str]:
        notes = [POINTS, *seeds_note(own)]
        for task, axes in task_panels(place, tasks).items():
            notes += draw_tolerance(axes, rows[rows.task == task], metric, compare, looks)
        label_axes(place, radius_name(own), LABELS.get(metric, metric))
        add_legend(part, place, place.axes)
        return [*notes, *marks_note(own), *settings_note(own, compare)]

    legend = [line_name(compare, name) for name in looks]
    others = {MOVEMENT: TRUTH, f"{CERTIFIED}_{metric}": CERTIFIED, BOUND: EXACT}
    legend += [label for name, label in others.items() if (rows.metric == name).any()]
    narrow = len(tasks) == 1
    part = Part(draw, panels_height(len(tasks)), legend, narrow=narrow, tasks=tasks)
    return part


def tolerance_rows(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return what a tolerance plot shows; radius 0 is none: nothing has moved there.

    Raises:
        NothingToDrawError: There is nothing.
    """
    attacked = table[(table.attack == "none") | (table.epsilon > 0)]
    wanted = [metric, MOVEMENT, f"{CERTIFIED}_{metric}", BOUND]
    if not ((attacked.metric == metric) & (attacked.attack != "none")).any():
        raise NothingToDrawError(f"no rows with metric {metric} at a radius above 0")
    rows = cells(attacked, wanted)
    return rows[rows.attack != "none"]


def tolerance_looks(rows: pd.DataFrame, compare: str) -> dict[str, Look]:
    """Return the looks of all lines, by the column that tells them apart, in order."""
    return looks_of(rows[~rows.metric.isin([MOVEMENT, BOUND])], compare)


def draw_tolerance(
    axes: Axes, rows: pd.DataFrame, metric: str, compare: str, looks: Mapping[str, Look]
) -> list[str]:
    """Draw one panel: equally spaced radii, logarithmic divergence.

    Args:
        axes: Where.
        rows: Of one task, from `tolerance_rows`.
        metric: As in `tolerance_plot`.
        compare: As in `tolerance_plot`.
        looks: From `tolerance_looks`, equal in all panels of a figure.

    Returns:
        What a reader must be told.
    """
    groups = {name: rows[rows[compare].map(text_of) == name] for name in looks}
    truths = {name: points(g, MOVEMENT, positive=True) for name, g in groups.items()}
    truths = {name: truth[["middle"]] for name, truth in truths.items() if len(truth)}
    epsilons = sorted(rows[rows.metric != BOUND].epsilon.unique())
    quantity = Quantity(metric, LABELS.get(metric, metric))
    within = [*truths.values(), points(rows, BOUND)[["middle"]]]
    notes = draw_panel(axes, rows, quantity, compare, looks, categories=epsilons, within=within)
    for i, (name, look) in enumerate(looks.items()):
        at = places(epsilons, i, len(looks))
        if name in truths:
            notes += _draw_truth(axes, at, truths[name].middle, look.color)
        certified = points(groups[name], f"{CERTIFIED}_{metric}").middle
        if len(certified):
            notes += _draw_certified(axes, at, certified, look.color)
    bound = points(rows, BOUND).middle
    if len(bound):
        style: dict[str, Any] = {"color": "0.6", "linewidth": 2.5, "zorder": 0.5}
        axes.plot(places(epsilons)[bound.index], bound, label=EXACT, **style)
        notes.append(LARGEST)
    return notes


def _draw_truth(axes: Axes, at: pd.Series, median: pd.Series, color: str) -> list[str]:
    """Movement of the true posterior; its entry in the legend stands for all colours."""
    look: dict[str, Any] = {"linestyle": "--", "linewidth": 0.9, "marker": "x", "markersize": 3}
    y = median.fillna(np.inf).clip(*axes.get_ylim())
    axes.plot(at[median.index], y, color=color, clip_on=False, **look)
    axes.plot([], [], color=COLORS["truth"], label=TRUTH, **look)
    below, broken = (median <= 0).any(), (~np.isfinite(median)).any()
    return [MOVED, *(note for note, found in ((BELOW, below), (BROKEN, broken)) if found)]


def _draw_certified(axes: Axes, at: pd.Series, median: pd.Series, color: str) -> list[str]:
    """Bounds, thin and without markers; one entry in the legend, as for the true posterior."""
    look: dict[str, Any] = {"linestyle": ":", "linewidth": 0.9, "scaley": False}
    y = median.where(np.isfinite(median))
    axes.plot(at[median.index], y, color=color, **look)
    axes.plot([], [], color=COLORS["truth"], label=CERTIFIED, **look)
    return [CERTIFICATE]
