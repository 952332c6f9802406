"""Coverage plot: empirical against nominal coverage, clean and attacked."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robust_npe.plotting.style import epsilon_color, new_figure, require_one_setting, style

__all__ = ["coverage_plot", "draw_coverage"]


def coverage_plot(table: pd.DataFrame, rows: str = "attack") -> Figure:
    """Draw expected coverage, one panel per task (across) and per attack or defense (down).

    Curves above the diagonal are conservative, below it overconfident. Where several runs share a
    curve, they must differ by nothing but the seed, and their mean is drawn.

    Args:
        table: Tidy results of one or more runs.
        rows: What the rows of panels are: a column such as `attack` or `defense`.

    Raises:
        ValueError: The table has no coverage curves, or a curve would mix settings.
    """
    curves = table[(table.metric == "coverage") & (table.statistic == "coverage")]
    if curves.empty:
        raise ValueError("The table has no rows with metric='coverage'.")
    tasks = list(dict.fromkeys(curves.task))
    names = [n for n in dict.fromkeys(curves[rows]) if rows != "attack" or n != "none"] or ["none"]
    with style():
        figure = new_figure(2.2 * len(tasks) + 1.2, 2.2 * len(names) + 0.2)
        panels = figure.subplots(len(names), len(tasks), squeeze=False, sharex=True, sharey=True)
        for line, name in zip(panels, names, strict=True):
            for axes, task in zip(line, tasks, strict=True):
                wanted = (curves[rows] == name) | (curves.attack == "none") & (rows == "attack")
                panel = curves[(curves.task == task) & wanted]
                require_one_setting(panel[panel.attack == "none"], f"{task}, {rows} {name}")
                require_one_setting(panel[panel.attack != "none"], f"{task}, {rows} {name}")
                draw_coverage(axes, panel)
                axes.set_title(f"{task}, {rows} {name}")
        for axes in panels[-1]:
            axes.set_xlabel("nominal coverage")
        for axes in panels[:, 0]:
            axes.set_ylabel("empirical coverage")
        panels[0][-1].legend(title=r"$\epsilon$", bbox_to_anchor=(1.02, 1), loc="upper left")
    return figure


def draw_coverage(axes: Axes, curves: pd.DataFrame) -> None:
    """Draw one panel: one curve per radius, clean (epsilon 0) included."""
    epsilons = sorted(curves.epsilon.unique())
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, zorder=0)
    for epsilon in epsilons:
        curve = curves[curves.epsilon == epsilon].groupby("level").value.mean()
        color = epsilon_color(epsilon, epsilons)
        axes.plot(curve.index, curve, color=color, linewidth=1.2, label=f"{epsilon:g}")
    axes.set_aspect("equal")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
