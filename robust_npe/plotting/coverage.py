"""Coverage plot: empirical against nominal coverage, clean and attacked."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from robust_npe.plotting.names import line_name, radius_name, task_name
from robust_npe.plotting.style import (
    NothingToDrawError,
    add_caption,
    epsilon_color,
    legend_entries,
    new_figure,
    require_one_setting,
    seeds_note,
    style,
)

__all__ = ["coverage_legend", "coverage_plot", "coverage_rows", "draw_coverage"]

MEANING = "Above the diagonal: regions too large (conservative); below: too small (overconfident)."


def coverage_plot(table: pd.DataFrame, rows: str = "attack") -> Figure:
    """Draw expected coverage, one panel per task (across) and per attack or defense (down).

    Curves above the diagonal are conservative, below it overconfident. Where several runs share a
    curve, they must differ by nothing but the seed of training (equal `seeds.data`), and their mean
    is drawn.

    Args:
        table: Tidy results of one or more runs.
        rows: What the rows of panels are: a column such as `attack` or `defense`.

    Raises:
        NothingToDrawError: The table has no coverage curves.
        ValueError: A curve would mix settings.
    """
    curves = coverage_rows(table)
    tasks = list(dict.fromkeys(curves.task))
    names = [n for n in dict.fromkeys(curves[rows]) if rows != "attack" or n != "none"] or ["none"]
    epsilons = sorted(curves.epsilon.unique())
    with style():
        figure = new_figure(2.2 * len(tasks) + 1.7, 2.3 * len(names) + 0.5)
        panels = figure.subplots(len(names), len(tasks), squeeze=False, sharex=True, sharey=True)
        for line, name in zip(panels, names, strict=True):
            for axes, task in zip(line, tasks, strict=True):
                wanted = (curves[rows] == name) | (curves.attack == "none") & (rows == "attack")
                panel = curves[(curves.task == task) & wanted]
                require_one_setting(panel[panel.attack == "none"], f"{task}, {rows} {name}")
                require_one_setting(panel[panel.attack != "none"], f"{task}, {rows} {name}")
                draw_coverage(axes, panel, epsilons)
                what = "clean" if (rows, name) == ("attack", "none") else line_name(rows, name)
                axes.set_title(f"{task_name(task)}\n{what}")
        for axes in panels[-1]:
            axes.set_xlabel("nominal coverage")
        for axes in panels[:, 0]:
            axes.set_ylabel("empirical coverage")
        coverage_legend(figure, panels.flat, curves)
        add_caption(figure, [MEANING, *seeds_note(curves)])
    return figure


def coverage_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return the curves in a table; an attack of radius 0 adds nothing to the clean ones.

    Raises:
        NothingToDrawError: There are none.
    """
    curves = table[(table.metric == "coverage") & (table.statistic == "coverage")]
    curves = curves[(curves.attack == "none") | (curves.epsilon > 0)]
    if curves.empty:
        raise NothingToDrawError("no rows with metric coverage")
    return curves


def draw_coverage(axes: Axes, curves: pd.DataFrame, epsilons: list[float]) -> None:
    """Draw one panel: one curve per radius, clean (epsilon 0) included.

    Args:
        axes: Where.
        curves: Of one task and attack or defense, from `coverage_rows`.
        epsilons: All radii of the figure, so that one radius has one colour.
    """
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, zorder=0)
    for i, epsilon in enumerate(epsilons):
        curve = curves[curves.epsilon == epsilon].groupby("level").value.mean()
        if len(curve):
            color = epsilon_color(epsilon, epsilons)
            width = 2.4 - 1.4 * i / max(1, len(epsilons) - 1)  # equal curves lie inside each other
            axes.plot(curve.index, curve, color=color, linewidth=width, label=_label(epsilon))
    axes.set_aspect("equal")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])


def coverage_legend(
    figure: Figure | SubFigure, panels: Iterable[Axes], curves: pd.DataFrame
) -> None:
    """Say beside the panels what the colours of `draw_coverage` are."""
    attacked = curves[curves.attack != "none"]
    order = [_label(epsilon) for epsilon in sorted(curves.epsilon.unique())]
    title = radius_name(attacked) if len(attacked) else None
    entries = legend_entries(panels, order)
    figure.legend(*entries, title=title, alignment="left", loc="outside right center")


def _label(epsilon: float) -> str:
    return f"{epsilon:g}" if epsilon else "clean"
