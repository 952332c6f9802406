"""Which share of the observations is broken at a radius."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from robust_npe.plotting.cells import (
    MixedRunsError,
    NothingToDrawError,
    require_comparable,
    require_one_setting,
    seeds_note,
    text_of,
)
from robust_npe.plotting.columns import tidy
from robust_npe.plotting.layout import (
    Part,
    add_legend,
    figure_of,
    label_axes,
    panels_height,
    task_panels,
)
from robust_npe.plotting.lines import looks_of
from robust_npe.plotting.names import in_paper_order, line_name, radius_name
from robust_npe.plotting.style import Look

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


@tidy
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
    looks = looks_of(curves, compare)
    if len(thresholds) > 1:
        found = ", ".join(f"{t:g}" for t in thresholds)
        raise MixedRunsError(f"The curves have thresholds {found}: select one before plotting.")
    name = str(curves.metric.iloc[0]).removeprefix(PREFIX)
    tasks = in_paper_order(curves.task)

    def draw(place: SubFigure) -> list[str]:
        for task, axes in task_panels(place, tasks).items():
            draw_broken(axes, curves[curves.task == task], compare, looks)
        radius = radius_name(curves).removesuffix(" ()")  # no norm is known without attacks
        label_axes(place, radius, "observations broken")
        add_legend(part, place, place.axes)
        return [MEANING[name].format(thresholds[0]), BOUND, *seeds_note(curves)]

    legend = [line_name(compare, line) for line in looks]
    part = Part(draw, panels_height(len(tasks)), legend, narrow=len(tasks) == 1)
    return figure_of([part])


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


def draw_broken(axes: Axes, curves: pd.DataFrame, compare: str, looks: Mapping[str, Look]) -> None:
    """Draw one panel: logarithmic radius, share of observations.

    Args:
        axes: Where.
        curves: Of one task, from `broken_rows`.
        compare: As in `broken_plot`.
        looks: One for each line, equal in all panels of a figure.
    """
    require_comparable(curves, "a panel", compare)
    names = curves[compare].map(text_of)
    for i, (line, look) in enumerate(looks.items()):
        rows = curves[names == line]
        require_one_setting(rows, f"{compare} {line}")
        levels = rows.groupby("level").value
        curve, least, most = levels.mean(), levels.min(), levels.max()
        if not len(curve):
            continue
        if (least < most).any():
            axes.fill_between(curve.index, least, most, color=look.color, alpha=0.2, linewidth=0)
        every = (len(curve) // 10 * i // len(looks), max(1, len(curve) // 10))
        style: dict[str, Any] = {
            "color": look.color,
            "marker": look.marker,
            "markersize": 3,
            "markevery": every,
        }
        axes.plot(curve.index, curve, label=line_name(compare, line), linewidth=1.1, **style)
    axes.set_xscale("log")
    axes.set_xlim(curves.level.min(), curves.level.max())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
