"""Coverage plot: empirical against nominal coverage, clean and attacked."""

from __future__ import annotations

from itertools import chain, cycle, groupby, product
from operator import itemgetter
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from robust_npe.plotting.cells import (
    MARKS,
    NothingToDrawError,
    cells,
    marks_note,
    require_comparable,
    seeds_note,
    text_of,
)
from robust_npe.plotting.columns import tidy
from robust_npe.plotting.describing import settings_note, setup_note
from robust_npe.plotting.layout import (
    Part,
    add_legend,
    block_panels,
    blocks_of,
    figure_of,
    label_axes,
)
from robust_npe.plotting.lines import looks_of
from robust_npe.plotting.names import (
    in_paper_order,
    line_name,
    radius_name,
    task_name,
    title_lines,
)
from robust_npe.plotting.style import MARKERS, epsilon_color

__all__ = [
    "MEANING",
    "coverage_part",
    "coverage_plot",
    "coverage_rows",
    "draw_coverage",
    "draw_curves",
]

MEANING = (
    "Above the diagonal: regions too large (conservative); below: too small (overconfident). "
    "Curves that lie on one another carry several kinds of markers."
)
CORNER = "In a corner: the radii that a mark is about."
MISSING = "Curves that are missing are not finite."
ACROSS = 4  # panels of one task beside one another
TICKS = [0, 0.5, 1], ["0", "0.5", "1"]


@tidy
def coverage_plot(table: pd.DataFrame, rows: str = "attack") -> Figure:
    """Draw expected coverage, one panel per task (across) and per attack or defense (down).

    Curves above the diagonal are conservative, below it overconfident. Where several runs share a
    curve, they must differ by nothing but their seeds, and their mean is drawn.

    Args:
        table: Tidy results of one or more runs.
        rows: What the rows of panels are: a column such as `attack` or `defense`.

    Raises:
        NothingToDrawError: The table has no coverage curves.
        ValueError: A curve would mix settings.
    """
    part = coverage_part(table, rows)
    return figure_of([part], setup_note(table, part.tasks))


def coverage_part(table: pd.DataFrame, rows: str = "attack") -> Part:
    """Return the part of a figure that `coverage_plot` consists of; arguments as there."""
    curves = coverage_rows(table)
    tasks, epsilons = in_paper_order(curves.task), sorted(curves.epsilon.unique())
    names = [n for n in looks_of(curves, rows) if rows != "attack" or n != "none"] or ["none"]
    across = len(tasks) == 1  # rather than one above the other
    blocks, columns = blocks_of(len(names), ACROSS) if across else blocks_of(len(tasks))
    lines = blocks if across else blocks * len(names)

    def draw(place: SubFigure) -> list[str]:
        if across:
            grid = block_panels(place, 1, len(names), sharey=True, widest=ACROSS)
        else:
            grid = block_panels(place, len(names), len(tasks), sharey=True)
        label_axes(place, "nominal coverage", "empirical coverage")
        for task in tasks:
            require_comparable(curves[curves.task == task], f"panels of {task}", rows)
        for axes, (name, task) in zip(chain(*grid), product(names, tasks), strict=True):
            clean = (rows, name) == ("attack", "none")
            what = "clean" if clean else line_name(rows, name)
            wanted = (curves[rows].map(text_of) == name) | (curves.attack == "none") & (
                rows == "attack"
            )
            panel = curves[(curves.task == task) & wanted]
            draw_coverage(axes, panel, epsilons, f"{task}, {rows} {name}")
            if across:
                axes.set_title(title_lines(f"{task_name(task)}, {what}", columns))
            elif name == names[0]:
                axes.set_title(title_lines(task_name(task), columns))
            if not across and task in tasks[::columns]:
                axes.set_ylabel(what)
        add_legend(part, place, place.axes)
        missing = [MISSING] if curves.value.isna().any() else []
        marked = [CORNER] if curves[[*MARKS]].any(axis=None) else []
        return [
            MEANING,
            *missing,
            *marked,
            *seeds_note(curves),
            *marks_note(curves),
            *settings_note(curves, rows),
        ]

    attacked = curves[curves.attack != "none"]
    title = radius_name(attacked) if len(attacked) else None
    side = 60 if columns == 1 else 150 / max(3, columns)
    legend = [_label(epsilon) for epsilon in epsilons]
    part = Part(draw, side * lines + 12, legend, title, columns == 1, tasks)
    return part


def coverage_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return the curves in a table; an attack of radius 0 adds nothing to the clean ones.

    Raises:
        NothingToDrawError: There are none.
    """
    still = (table.attack != "none") & (table.epsilon == 0)
    curves = cells(table[~still], ["coverage"])
    curves = curves[curves.statistic == "coverage"]
    if curves.empty:
        raise NothingToDrawError("no rows with metric coverage")
    return curves


def draw_coverage(
    axes: Axes, curves: pd.DataFrame, epsilons: list[float], where: str = "a panel"
) -> None:
    """Draw one panel: one curve per radius, clean (epsilon 0) included.

    Args:
        axes: Where.
        curves: Of one task and attack or defense, from `coverage_rows`.
        epsilons: All radii of the figure, so that one radius has one colour and one marker.
        where: Name of the panel, for errors.

    Raises:
        ValueError: A curve would mix settings.
    """
    require_comparable(curves, where)
    draw_curves(axes, curves, epsilons)
    _draw_marks(axes, curves)


def draw_curves(axes: Axes, curves: pd.DataFrame, epsilons: list[float]) -> None:
    """Draw one curve per radius from the columns `epsilon`, `level` and `value`."""
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.7, zorder=0)
    for i, (epsilon, marker) in enumerate(zip(epsilons, cycle(MARKERS), strict=False)):
        levels = curves[curves.epsilon == epsilon].groupby("level").value
        if not len(levels):
            continue
        color: Any = epsilon_color(epsilon, epsilons)
        least, most = levels.min(), levels.max()
        if (least < most).any():
            axes.fill_between(least.index, least, most, color=color, alpha=0.15, linewidth=0)
        # each radius at levels of its own: equal curves do not hide each other's markers
        every = i % len(least), max(1, len(epsilons))
        look: dict[str, Any] = {"marker": marker, "markersize": 3.5, "markeredgewidth": 0}
        look |= {"linewidth": 1, "color": color, "markevery": every}
        axes.plot(
            least.index, levels.agg(lambda v: v.mean(skipna=False)), label=_label(epsilon), **look
        )
    axes.set_aspect("equal")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_xticks(*TICKS)
    axes.set_yticks(*TICKS)


def _draw_marks(axes: Axes, curves: pd.DataFrame) -> None:
    """Say in the corner which radii something speaks against."""
    all_radii = sorted(curves.epsilon.unique())
    lines = []
    for name, (mark, _) in MARKS.items():
        marked = set(curves[curves[name]].epsilon)
        if marked:
            lines.append(f"{mark} {_spans([e in marked for e in all_radii], all_radii)}")
    if lines:
        behind = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.8}
        look: dict[str, Any] = {"fontsize": 7, "bbox": behind, "zorder": 4}
        axes.text(0.98, 0.03, "\n".join(lines), ha="right", va="bottom", **look)


def _spans(marked: list[bool], radii: list[float]) -> str:
    """Write marked radii shortly: neighbours as from-to."""
    spans = []
    for found, group in groupby(zip(marked, radii, strict=True), key=itemgetter(0)):
        ends = [_label(radius) for _, radius in group]
        if found:
            spans.append(ends[0] if len(ends) == 1 else f"{ends[0]} to {ends[-1]}")
    return ", ".join(spans)


def _label(epsilon: float) -> str:
    return f"{epsilon:g}" if epsilon else "clean"
