"""Lines over equally spaced radii (or other categories), on a linear or a logarithmic axis."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from robust_npe.plotting.cells import (
    MARKS,
    points,
    require_comparable,
    require_one_setting,
    text_of,
)
from robust_npe.plotting.names import LINES, count_text, line_name, number_text
from robust_npe.plotting.style import Look, line_looks

__all__ = [
    "BELOW",
    "BROKEN",
    "POINTS",
    "Quantity",
    "category_names",
    "draw_line",
    "draw_panel",
    "label_categories",
    "log_limits",
    "looks_of",
    "set_log_limits",
]

LINEAR, FAR_OFF = 10.0, 1000.0  # nats
NEAR = 0.1  # of the height of a panel, in which marks meet
POINTS = "Points: medians over observations; bars: 15 to 85 %. Radii are not to scale."
BELOW = "On the axis (hollow): not told from zero, below the resolution of the estimate."
CUT = "Bars at an end of the axis go on beyond it."
BROKEN = "At the upper end (hollow): not finite."
MISSING = "Points that are missing are not finite."
WHOLE = "A mark at the end of a line is about all of its points."
FAR = f"Likelihoods: logarithmic beyond ±{LINEAR:g} nats where they differ by {FAR_OFF:g}."
ORDERED = ("beta", "defense_epsilon", "num_simulations", "epsilon")
"""Columns of numbers, whose lines get a ramp of colours."""
TURNED = ("estimator", "defense", "objective", "num_simulations", "beta", "defense_epsilon")
"""Columns whose values are long: their labels are turned."""


@dataclass(frozen=True)
class Quantity:
    """What the vertical axis of a panel shows.

    Attributes:
        metric: Its name in tables.
        label: Its name on the axis, with its unit.
        statistic: Which statistic; `median` has bars, quantiles over observations.
        log: Whether the axis is logarithmic, for what is not negative.
        best: Where a thin line says what would be ideal.
    """

    metric: str
    label: str
    statistic: str = "median"
    log: bool = True
    best: float | None = None

    @property
    def statistics(self) -> tuple[str, ...]:
        """All statistics that are drawn."""
        quantiles = ("q15", "q85", "median_se") if self.statistic == "median" else ()
        return (self.statistic, *quantiles)


def looks_of(rows: pd.DataFrame, compare: str) -> dict[str, Look]:
    """Return the looks of all lines by the text of the column that tells them apart, in order."""
    values = rows[compare].drop_duplicates().sort_values(na_position="first")
    names = [text_of(value) for value in values]
    known = {name: i for i, name in enumerate(LINES.get(compare, {}))}
    names.sort(key=lambda name: known.get(name.split(" ")[0], len(known)))
    return line_looks(names, ordered=compare in ORDERED)


def draw_panel(
    axes: Axes,
    rows: pd.DataFrame,
    quantity: Quantity,
    compare: str,
    looks: Mapping[str, Look],
    x: str = "epsilon",
    categories: Sequence[Any] | None = None,
    within: Collection[pd.DataFrame] = (),
) -> list[str]:
    """Draw one panel, one line for each look.

    Args:
        axes: Where.
        rows: Of one panel, from `cells`.
        quantity: What is drawn.
        compare: Column that tells lines apart.
        looks: From `looks_of`, equal in all panels of a figure.
        x: Column of the horizontal axis.
        categories: Its values; None for those of the rows.
        within: Other points that a logarithmic axis must have room for.

    Returns:
        What a reader must be told.

    Raises:
        ValueError: A line would mix settings.
    """
    require_comparable(rows, f"a panel of {', '.join(map(str, rows.task.unique()))}", compare, x)
    given = quantity.metric, quantity.statistic, x, quantity.log
    names = rows[compare].map(text_of)
    lines = {name: points(rows[names == name], *given) for name in looks}
    if categories is None:
        categories = sorted({value for line in lines.values() for value in line.index})
    if quantity.log:
        set_log_limits(axes, [*lines.values(), *within])
    else:
        _set_linear_axis(axes, [*lines.values()])
    if quantity.best is not None:
        axes.axhline(quantity.best, color="0.7", linewidth=0.7, zorder=0)
    notes: list[str] = []
    for i, (name, look) in enumerate(looks.items()):
        own, where = rows[names == name], f"{compare} {name}"
        require_one_setting(own[own.attack == "none"], where, but=(x,))
        require_one_setting(own[own.attack != "none"], where, but=(x,))
        if len(lines[name]):
            at = places(categories, i, len(looks)) if x != compare else places(categories)
            notes += draw_line(axes, at, lines[name], look, line_name(compare, name), quantity.log)
    label_categories(axes, categories, x)
    _move_apart(axes)
    if axes.get_yscale() == "symlog":
        notes.append(FAR)
    return notes


def places(categories: Sequence[Any], line: int = 0, count: int = 1) -> pd.Series:
    """Return where one of several lines has its points, so that their bars do not overlap."""
    step = min(0.12, 0.8 / count)
    shift = step * (line - (count - 1) / 2)
    return pd.Series(np.arange(len(categories)) + shift, index=list(categories))


def label_categories(axes: Axes, categories: Sequence[Any], x: str = "epsilon") -> None:
    """Set equally spaced ticks with the names of the values of a column."""
    turned: dict[str, Any] = {"rotation": 30, "ha": "right"} if x in TURNED else {}
    axes.set_xticks(range(len(categories)), category_names(categories, x), **turned)
    axes.set_xlim(-0.6, len(categories) - 0.4)


def category_names(categories: Sequence[Any], x: str) -> list[str]:
    """Return what values of a column are called on its axis."""
    write = count_text if x == "num_simulations" else text_of
    texts = [write(value) for value in categories]
    names = [line_name(x, text) if x in LINES else text for text in texts]
    return ["none" if name == "nan" else name for name in names]


def _set_linear_axis(axes: Axes, lines: Collection[pd.DataFrame]) -> None:
    """Few plain ticks; logarithmic beyond some nats where a value is far off, as of a training that
    failed, so that the others can be told apart."""
    axes.margins(y=0.12)
    values = np.concatenate([line[["middle", "least", "most"]].to_numpy(float) for line in lines])
    values = values[np.isfinite(values)]
    if not len(values) or np.ptp(values) < FAR_OFF:
        axes.locator_params(axis="y", nbins=4)
        axes.ticklabel_format(axis="y", useOffset=False)
        return
    axes.set_yscale("symlog", linthresh=LINEAR, linscale=2.0)
    axes.set_yticks([-1e5, -1e3, -10, 0, 10, 1e3, 1e5, 1e7], minor=False)
    axes.set_yticks([], minor=True)
    axes.yaxis.set_major_formatter(FuncFormatter(_decade))


def _move_apart(axes: Axes) -> None:
    """Move marks at the ends of lines to the right of those that they would cover."""
    to_axes = axes.transScale + axes.transLimits
    axes.autoscale_view()
    taken: list[float] = []
    marks = [t for t in axes.texts if isinstance(t, Annotation) and t.get_gid() == WHOLE]
    for text in marks:
        height = float(to_axes.transform(text.xy)[1])
        near = sum(abs(height - other) < NEAR for other in taken)
        text.xyann = (3 + 3.5 * near, 0)
        taken.append(height)


def set_log_limits(axes: Axes, lines: Collection[pd.DataFrame]) -> None:
    """Set the ends of the logarithmic axis, around everything that it can show."""
    columns = ["middle", "q15", "q85", "least", "most"]
    values = [line.reindex(columns=columns).to_numpy(float).ravel() for line in lines]
    log_limits(axes, np.concatenate(values))


def log_limits(axes: Axes, values: np.ndarray) -> None:
    """Set the ends of the logarithmic axis around positive, finite values, with room below them if
    others are not positive; at least a decade, so that there are ticks."""
    axes.set_yscale("log")
    shown, margin = values[(values > 0) & np.isfinite(values)], 1.6
    if not len(shown):
        shown = np.array([1e-3, 1.0])
    bottom, top = shown.min() / margin ** (1 + (values <= 0).any()), shown.max() * margin
    widen = max(1.0, 10 * bottom / top) ** 0.5
    axes.set_ylim(bottom / widen, top * widen)
    decades = np.log10(axes.get_ylim()[1] / axes.get_ylim()[0])
    subs, step = ((1.0, 2.0, 5.0), 1) if decades < 2 else ((1.0,), max(1, round(decades / 5)))
    axes.yaxis.set_major_locator(LogLocator(base=10.0**step, subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(_decade))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _decade(value: float, _: object) -> str:
    if value <= 0:
        return number_text(value)
    if 1e-3 <= value <= 1e3 or not np.log10(value).is_integer():
        return f"{value:g}"
    return rf"$10^{{{np.log10(value):.0f}}}$"


def draw_line(
    axes: Axes, at: pd.Series, points: pd.DataFrame, look: Look, label: str, log: bool = True
) -> list[str]:
    """Draw middles, bars over observations and the band over seeds.

    On a logarithmic axis, points outside of it are hollow, and joined by dots.
    """
    at = at[points.index]
    numbers = points.drop(columns="mark")
    y = numbers.fillna(np.inf).clip(*axes.get_ylim()) if log else numbers
    bars = np.array([y.middle - y.q15, y.q85 - y.middle]).clip(min=0)
    below, broken = log & (points.middle <= 0), ~np.isfinite(points.middle)
    drawn: dict[str, Any] = {"elinewidth": 0.7, "linewidth": 1.1, "color": look.color}
    shown = y.middle.where(~below & ~broken)
    band: dict[str, Any] = {"color": look.color, "alpha": 0.2}
    if len(points) == 1:
        axes.vlines(at, y.least, y.most, linewidth=5, **band)
    elif points.least.notna().any():
        axes.fill_between(at, y.least, y.most, linewidth=0, **band)
    style = drawn | {"marker": look.marker, "markersize": 3.5, "markeredgewidth": 0}
    axes.errorbar(at, shown, yerr=bars, label=label, **style)
    if log and shown.isna().any():
        axes.plot(at, y.middle, ":", color=look.color, linewidth=0.8, zorder=1)
    hollow = drawn | {"markersize": 4.5, "markerfacecolor": "white", "clip_on": False, "zorder": 3}
    for outside, marker in ((below, look.marker), (broken & log, "^")):
        if outside.any():
            where = at[outside], y.middle[outside]
            axes.errorbar(*where, yerr=bars[:, outside], fmt=marker, **hollow)
    whole = _draw_marks(axes, at, y.assign(mark=points.mark)[np.isfinite(y.middle)], look)
    cut = log & ~below & ~broken & ((points.q15 <= 0) | np.isinf(points.q85))
    notes = [(BELOW, below.any()), (BROKEN if log else MISSING, broken.any())]
    notes += [(CUT, cut.any()), (WHOLE, whole)]
    return [note for note, found in notes if found]


def _draw_marks(axes: Axes, at: pd.Series, points: pd.DataFrame, look: Look) -> bool:
    """Write what speaks against a cell above its bar, and once, at the end of the line, what does
    so against all of them; tell whether there is such a thing."""
    known = [mark for mark, _ in MARKS.values()]
    several = len(points) > 1
    every = [m for m in known if several and points.mark.str.contains(m, regex=False).all()]
    written: dict[str, Any] = {"fontsize": 7, "textcoords": "offset points", "zorder": 6}
    written["path_effects"] = [withStroke(linewidth=1.2, foreground="white", alpha=0.9)]
    for place, point in zip(at[points.index], points.itertuples(), strict=True):
        if mark := "".join(c for c in str(point.mark) if c not in every):
            top = place, np.nanmax([point.middle, point.q85])
            look_of: dict[str, Any] = {"ha": "center", "va": "bottom", "color": look.color}
            axes.annotate(mark, top, (0, 2.5), **look_of, **written)
    if every:
        last = at[points.index].iloc[-1], points.middle.iloc[-1]
        text = axes.annotate("".join(every), last, (3, 0), va="center", color=look.color, **written)
        text.set_gid(WHOLE)
    return bool(every)
