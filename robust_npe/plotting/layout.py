"""Figures at printed size: parts above one another, with panels, legends and one caption."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from string import ascii_uppercase
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from robust_npe.plotting.names import task_name, title_lines
from robust_npe.plotting.style import (
    MM,
    ONE_COLUMN,
    TWO_COLUMNS,
    add_caption,
    add_letter,
    new_figure,
    style,
)

__all__ = [
    "Part",
    "add_legend",
    "block_panels",
    "blocks_of",
    "figure_of",
    "label_axes",
    "legend_entries",
    "rows_of",
    "task_panels",
    "with_notes",
]

MOST = 3  # panels in one row, so that each has room for its ticks
WIDEST = 6  # tasks beside one another that have several panels each
LINE = 4.0  # mm, of a legend
LETTER, HANDLE = 1.3, 11.0  # mm, of its labels, and of what stands before them
CAPTION_LINE = 3.1  # mm


@dataclass(frozen=True)
class Part:
    """A part of a figure, as wide as the figure.

    Attributes:
        draw: Draws panels and legend into what it is given, and returns notes for the caption.
        height: Of its panels, mm.
        legend: What its legend says.
        title: Title of the legend.
        narrow: Whether it fits into one column of a page.
        tasks: What its panels are about, for `setup_note`.
    """

    draw: Callable[[SubFigure], Iterable[str]]
    height: float
    legend: Sequence[str] = ()
    title: str | None = None
    narrow: bool = False
    tasks: Sequence[str] = ()


def figure_of(parts: Sequence[Part], notes: Sequence[str] = ()) -> Figure:
    """Draw parts below one another, with letters if there are several, and one caption.

    Args:
        parts: From top to bottom.
        notes: What the caption says of the whole figure, after the notes of the parts.
    """
    width = ONE_COLUMN if all(part.narrow for part in parts) else TWO_COLUMNS
    heights = [part.height + LINE * _legend_shape(width, part)[0] for part in parts]
    with style():
        figure = new_figure(width, MM * sum(heights))
        drawn = figure.subfigures(len(parts), 1, squeeze=False, height_ratios=heights)[:, 0]
        told: dict[str, list[str]] = {}
        for part, place, letter in zip(parts, drawn, ascii_uppercase, strict=False):
            for note in dict.fromkeys(part.draw(place)):
                told.setdefault(note, []).append(letter)
            if len(parts) > 1:
                add_letter(place, letter)
        add_caption(figure, [*_lettered(told, len(parts)), *notes])
        lines = figure.get_supxlabel().count("\n") + 1
        figure.set_figheight(MM * (sum(heights) + CAPTION_LINE * lines + 1.5))
    return figure


def with_notes(part: Part, notes: Sequence[str]) -> Part:
    """Return a part whose notes for the caption are followed by others."""
    return replace(part, draw=lambda place: [*part.draw(place), *notes])


def _lettered(told: Mapping[str, Sequence[str]], parts: int) -> list[str]:
    """Put the letters of the parts before notes that are not about all of them, which are last."""
    notes: dict[str, list[str]] = {}
    for note, letters in sorted(told.items(), key=lambda item: (len(item[1]), item[1])):
        start = f"({', '.join(letters)}) " if len(letters) < parts else ""
        notes.setdefault(start, []).append(note)
    return [start + " ".join(group) for start, group in notes.items()]


def add_legend(part: Part, place: SubFigure, panels: Iterable[Axes]) -> None:
    """Write the legend of a part above its panels, in as many columns as fit."""
    handles, labels = legend_entries(panels, part.legend)
    if labels:
        width = place.bbox.width / place.figure.dpi
        columns = _legend_shape(width, part)[1]
        look = {"columnspacing": 1.2, "handletextpad": 0.5, "title": part.title}
        texts = [_legend_text(label, width) for label in labels]
        place.legend(handles, texts, loc="outside upper center", ncols=columns, **look)


def _legend_text(label: str, width: float) -> str:
    """Break a label that is wider than a part so wide (inches)."""
    return "\n".join(wrap(label, int((width / MM - HANDLE) / LETTER)))


def _legend_shape(width: float, part: Part) -> tuple[int, int]:
    """Rows and columns of a legend in a part so wide (inches)."""
    if not part.legend:
        return 0, 0
    texts, count = [_legend_text(label, width) for label in part.legend], len(part.legend)
    widths = [LETTER * max(map(len, text.split("\n"))) + HANDLE for text in texts]
    columns, lines = count, 1 + max(text.count("\n") for text in texts)
    if sum(widths) > width / MM:  # columns of equal lengths, as far as possible
        rows = -(-count // max(1, int(width / MM / max(widths))))
        columns = -(-count // rows)
    return -(-count // columns) * lines + (part.title is not None), columns


def legend_entries(panels: Iterable[Axes], order: Iterable[str]) -> tuple[list[Artist], list[str]]:
    """Return handles and labels of all panels, each label once, in the order given; what is a
    single point in all of them is shown as one."""
    entries: dict[str, list[Any]] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, []).append(handle)
    drawn = [label for label in order if label in entries]
    return [_handle(entries[label]) for label in drawn], drawn


def _handle(handles: Sequence[Any]) -> Artist:
    """Return the last of equal handles, or its marker alone where none has a line to show."""
    lines = [h.lines[0] if isinstance(h, ErrorbarContainer) else h for h in handles]
    if not all(isinstance(line, Line2D) and np.size(line.get_xdata()) == 1 for line in lines):
        return handles[-1]
    marker = Line2D([], [])
    marker.update_from(lines[-1])
    marker.set_linestyle("none")
    return marker


def panels_height(count: int) -> float:
    """Return the height that rows of panels with lines need, mm."""
    return (40.0 if rows_of(count) > 1 else 46.0) * rows_of(count) + 6


def rows_of(count: int) -> int:
    """Return in how many rows so many panels are drawn."""
    return -(-count // MOST)


def task_panels(place: SubFigure, tasks: Sequence[str], rows: int | None = None) -> dict[str, Axes]:
    """Return a titled panel for each task, in so many rows; None for as many as are needed."""
    rows = rows or rows_of(len(tasks))
    columns = -(-len(tasks) // rows)
    grid = place.subplots(rows, columns, squeeze=False).flat
    panels = dict(zip(tasks, grid, strict=False))
    for task, axes in panels.items():
        axes.set_title(title_lines(task_name(task), columns))
    for axes in place.axes[len(tasks) :]:
        axes.remove()
    return panels


def blocks_of(tasks: int, widest: int = WIDEST) -> tuple[int, int]:
    """Return in how many blocks of panels so many tasks are drawn, and how many columns these have,
    where each task has several panels below one another."""
    blocks = -(-tasks // widest)
    return blocks, -(-tasks // blocks)


def block_panels(
    place: SubFigure, lines: int, tasks: int, sharey: bool, widest: int = WIDEST
) -> list[list[Axes]]:
    """Return so many lines of panels with one for each task. Tasks that do not fit beside one
    another go on in a block below all lines; panels that stay empty are removed."""
    blocks, columns = blocks_of(tasks, widest)
    shared: dict[str, Any] = {"squeeze": False, "sharex": True, "sharey": sharey}
    grid = place.subplots(blocks * lines, columns, **shared)
    panels = grid.reshape(blocks, lines, columns).swapaxes(0, 1).reshape(lines, -1)
    for axes in panels[:, tasks:].flat:
        axes.remove()
    for axes in panels[-1, tasks - columns : tasks]:  # the lowest of their columns
        axes.xaxis.set_tick_params(labelbottom=True)
    return [[*line[:tasks]] for line in panels]


def label_axes(place: SubFigure, x: str = "", y: str = "") -> None:
    """Name the axes: of a single panel its own, of several all at once."""
    single = place.axes[0] if len(place.axes) == 1 else None
    if x:
        name_x = single.set_xlabel if single else partial(place.supxlabel, fontsize=8)
        name_x(x.replace(", in ", ",\nin ") if single else x)
    if y:
        name_y = single.set_ylabel if single else partial(place.supylabel, fontsize=8)
        name_y(y)
