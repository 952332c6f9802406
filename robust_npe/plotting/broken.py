"""Which share of the observations is broken at a radius."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from robust_npe.plotting.names import line_name, radius_name, task_name
from robust_npe.plotting.style import (
    NothingToDrawError,
    add_caption,
    legend_entries,
    new_figure,
    require_one_setting,
    seeds_note,
    style,
)
from robust_npe.plotting.tolerance import tolerance_colors

__all__ = ["broken_plot", "broken_rows", "draw_broken"]

PREFIX = "minimal_radius_"
MEANING = {
    "kl_forward": r"Broken: $D_{{KL}}(q(\theta|x)\,\|\,q(\theta|\tilde x))$ above {:g} (nats).",
    "mean_shift": "Broken: the posterior mean moved by more than {:g} posterior standard "
    "deviations.",
    "coverage": "Broken: the true parameters lie outside of the {:.4g} highest-density region.",
}
BOUND = "Found by attacks: a stronger one can only raise a curve."
ATTACK = ["attack", "norm", "objective", "attack_settings", "domain"]


def broken_plot(
    table: pd.DataFrame, criterion: str | None = None, compare: str = "attack"
) -> Figure:
    """Draw the share of broken observations against the radius, one panel per task and one line per
    attack or defense.

    Where several runs share a panel and a line, they must differ by nothing but the seed of
    training, and their mean is drawn.

    Args:
        table: Tidy results of one or more runs with the metric `minimal_radius`.
        criterion: What counts as broken: `kl_forward`, `mean_shift` or `coverage`; None for the
            first that the table has.
        compare: What the lines are: a column such as `attack`, `defense` or `beta`.

    Raises:
        NothingToDrawError: The table has no such curve.
        ValueError: A line would mix settings or thresholds.
    """
    curves, thresholds = broken_rows(table, criterion)
    curves[compare] = [f"{v:g}" if isinstance(v, float) else str(v) for v in curves[compare]]
    tasks = list(dict.fromkeys(curves.task))
    colors = tolerance_colors(curves, compare)
    if len(thresholds) > 1:
        found = ", ".join(f"{t:g}" for t in thresholds)
        raise ValueError(f"The curves have thresholds {found}: select one before plotting.")
    name = str(curves.metric.iloc[0]).removeprefix(PREFIX)
    with style():
        figure = new_figure(2.6 * len(tasks) + 1.6, 2.8)
        panels = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
        for axes, task in zip(panels, tasks, strict=True):
            draw_broken(axes, curves[curves.task == task], compare, colors)
            axes.set_title(task_name(task))
        panels[0].set_ylabel("observations broken")
        entries = legend_entries(panels, [line_name(compare, line) for line in colors])
        figure.legend(*entries, loc="outside right center")
        notes = [MEANING[name].format(thresholds[0]), BOUND, *seeds_note(curves)]
        add_caption(figure, notes)
    return figure


def broken_rows(table: pd.DataFrame, criterion: str | None) -> tuple[pd.DataFrame, list[float]]:
    """Return the curves with the attack that they were found by, and their thresholds.

    They were measured with the clean observations, whose rows name no attack: it is the one of the
    same run's attacked rows, where there are any.

    Raises:
        NothingToDrawError: There are none.
    """
    measured = table[table.metric.str.startswith(PREFIX)]
    curves = measured[measured.statistic == "broken"]
    if criterion is not None:
        curves = curves[curves.metric == PREFIX + criterion]
    if curves.empty:
        raise NothingToDrawError(f"no rows with metric {PREFIX}{criterion or '*'}")
    metric = curves.metric.iloc[0]
    measured, curves = measured[measured.metric == metric], curves[curves.metric == metric]
    attacks = table[table.attack != "none"].drop_duplicates("run_id").set_index("run_id")[ATTACK]
    known = curves.run_id.isin(attacks.index)
    curves = curves.copy()
    curves.loc[known, ATTACK] = attacks.loc[curves.run_id[known]].to_numpy()
    thresholds = measured[measured.statistic == "threshold"].value
    return curves, sorted(thresholds.unique())


def draw_broken(axes: Axes, curves: pd.DataFrame, compare: str, colors: dict[str, str]) -> None:
    """Draw one panel: logarithmic radius, share of observations.

    Args:
        axes: Where.
        curves: Of one task, from `broken_rows`, the column `compare` as text.
        compare: As in `broken_plot`.
        colors: One for each line, equal in all panels of a figure.
    """
    for line, color in colors.items():
        rows = curves[curves[compare] == line]
        require_one_setting(rows, f"{compare} {line}")
        curve = rows.groupby("level").value.mean()
        if len(curve):
            axes.plot(curve.index, curve, color=color, label=line_name(compare, line))
    axes.set_xscale("log")
    axes.set_xlim(curves.level.min(), curves.level.max())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(radius_name(curves).removesuffix(" ()"))  # no norm is known without attacks
