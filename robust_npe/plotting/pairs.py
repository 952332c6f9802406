"""Pair plots of posteriors: densities of each parameter, and regions of each pair."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from numpy.typing import NDArray

from robust_npe.plotting.names import number_text
from robust_npe.plotting.observations import STATE_COLORS
from robust_npe.plotting.style import COLORS

if TYPE_CHECKING:
    from scipy.stats import gaussian_kde

__all__ = ["REGIONS", "STATE_LINES", "draw_pairs", "draw_regions", "most_moved", "parameter_name"]

Array = NDArray[np.float64]

REGIONS = (0.5, 0.9)  # probability in each region of a pair
STATE_LINES = {"clean": "-", "attacked": "--"}
STEPS = np.array([5.0, 4.0, 2.5, 2.0, 1.0])  # of ticks
LETTER, HEIGHT, GAP = 1.35, 2.1, 0.9  # mm, of their labels
LONG = 1e5  # from which numbers have an exponent
SIDES = 41.0, 36.0  # mm, of all panels together
GRID = 60
GREEK = ("alpha", "beta", "gamma", "delta", "theta")


def parameter_name(name: str) -> str:
    """Return a parameter as people write it: Greek letters and subscripts."""
    letter, _, subscript = name.partition("_")
    letter = rf"\{letter}" if letter in GREEK else letter
    if not re.fullmatch(r"\\?[A-Za-z]+", letter):
        return name
    return rf"${letter}_\mathrm{{{subscript}}}$" if subscript else rf"${letter}$"


def most_moved(samples: pd.DataFrame, count: int) -> list[str]:
    """Return the parameters whose mean moves most, in clean standard deviations, in their order.

    Args:
        samples: Rows with `state` (clean or attacked), `name`, `value`.
        count: How many of them.
    """
    names = list(dict.fromkeys(samples.name))
    clean, attacked = (samples[samples.state == s].groupby("name").value for s in STATE_LINES)
    moved = (attacked.mean() - clean.mean()).abs() / clean.std()
    return [name for name in names if name in moved.nlargest(count).index]


def draw_pairs(figure: SubFigure, samples: pd.DataFrame, truth: pd.Series) -> list[Axes]:
    """Draw the lower triangle of a pair plot, clean and attacked.

    Args:
        figure: Where.
        samples: Rows with `state`, `position` (number of the sample), `name`, `value`.
        truth: The true value of each parameter that is drawn, by name.
    """
    names = list(truth.index)
    panels = figure.subplots(len(names), len(names), squeeze=False, sharex="col")
    wide = {
        state: samples[samples.state == state].pivot_table("value", "position", "name")[names]
        for state in STATE_LINES
    }
    limits = {n: _limits([w[n].to_numpy() for w in wide.values()], truth[n]) for n in names}
    for i, row in enumerate(names):
        for j, column in enumerate(names):
            axes = panels[i, j]
            if j > i:
                axes.remove()
            elif i == j:
                _draw_density(axes, {s: w[row].to_numpy() for s, w in wide.items()}, truth[row])
            else:
                draw_regions(axes, {s: w[[column, row]].to_numpy() for s, w in wide.items()})
                axes.plot(*truth[[column, row]], **_truth())
                axes.set_ylim(*limits[row])
            if j <= i:
                axes.set_xlim(*limits[column])
                _label(axes, i, j, names)
    return [panels[i, j] for i in range(len(names)) for j in range(i + 1)]


def _draw_density(axes: Axes, values: dict[str, Array], truth: float) -> None:
    """Densities of one parameter, each scaled to the same height."""
    low, high = _limits(list(values.values()), truth)
    for state in STATE_LINES:
        width = max(np.std(values[state]), 1e-9)
        near = np.linspace(values[state].min() - width, values[state].max() + width, 200)
        grid = np.sort(np.concatenate((np.linspace(low, high, 100), near)))
        density = _kernel(values[state])(grid)
        color = STATE_COLORS[state]
        axes.plot(grid, density / density.max(), STATE_LINES[state], color=color, linewidth=1)
        axes.fill_between(grid, density / density.max(), color=color, alpha=0.2, linewidth=0)
    axes.axvline(truth, color=COLORS["truth"], linewidth=0.8)
    axes.set_ylim(0, 1.05)


def draw_regions(axes: Axes, values: dict[str, Array]) -> None:
    """Draw the smallest regions that hold 50 and 90 % of samples `(S, 2)`, clean and attacked."""
    for state in STATE_LINES:
        x, y, density, levels = _density(values[state])
        color = STATE_COLORS[state]
        axes.contourf(x, y, density, [*levels, np.inf], colors=[color] * 2, alpha=0.25)
        look = {"colors": [color], "linestyles": STATE_LINES[state], "linewidths": 0.7}
        axes.contour(x, y, density, levels, **look)


def _density(values: Array) -> tuple[Array, Array, Array, list[float]]:
    """A kernel density estimate on a grid around the samples, and the levels of its regions."""
    kernel = _kernel(values.T)
    margin = 0.6 * values.std(axis=0) + 1e-9
    low, high = np.quantile(values, [0.002, 0.998], axis=0)
    x, y = (np.linspace(a - m, b + m, GRID) for a, b, m in zip(low, high, margin, strict=True))
    density = kernel(np.stack(np.meshgrid(x, y)).reshape(2, -1)).reshape(GRID, GRID)
    at_samples = kernel(values.T)
    return x, y, density, [float(np.quantile(at_samples, 1 - p)) for p in sorted(REGIONS)[::-1]]


def _kernel(values: Array) -> gaussian_kde:
    from scipy.stats import gaussian_kde  # slow to import

    return gaussian_kde(values)


def _limits(values: Sequence[Array], truth: float) -> tuple[float, float]:
    """Ends of an axis that shows nearly all samples and the true value."""
    ends = np.array([np.quantile(v, [0.005, 0.995]) for v in values])
    low, high = min(ends.min(), truth), max(ends.max(), truth)
    margin = 0.08 * (high - low)
    return low - margin, high + margin


def _ticks(low: float, high: float, length: float, upright: bool = False) -> Array:
    """Two or three round numbers, if so many fit, whose labels do not touch.

    Args:
        low: Where the axis begins.
        high: Where it ends.
        length: Of the axis, mm.
        upright: Whether it is the vertical one.
    """
    steps = np.concatenate([10.0**power * STEPS for power in (1, 0, -1)])
    steps = 10.0 ** np.floor(np.log10(high - low)) * steps
    single: list[Array] = []
    for step in steps:
        ticks = _multiples(step, low, high)
        single += [ticks[:1]] if len(ticks) else []
        for some in (ticks, ticks[[0, -1]]) if len(ticks) > 1 else ():
            if len(some) < 4 and _fit(some, low, high, length, upright):
                return some
    return single[0]


def _fit(ticks: Array, low: float, high: float, length: float, upright: bool) -> bool:
    """Tell whether labels have room along an axis; they may stick out a little, sideways."""
    sizes = np.array(
        [HEIGHT if upright else LETTER * len(_text(tick).replace("times", "")) for tick in ticks]
    )
    places = (ticks - low) / (high - low) * length
    apart = np.diff(places) > (sizes[1:] + sizes[:-1]) / 2 + GAP
    out = max(sizes[0] / 2 - places[0], sizes[-1] / 2 - (length - places[-1]))
    return bool(apart.all() and out < GAP)


def _text(tick: float) -> str:
    """Return a tick as a short number."""
    if abs(tick) < LONG:
        return number_text(tick)
    digits, power = f"{tick:.2e}".split("e")
    return rf"${float(digits):g}\times10^{int(power)}$"


def _multiples(step: float, low: float, high: float) -> Array:
    margin = 0.03 * (high - low)
    first, last = np.ceil((low + margin) / step), np.floor((high - margin) / step)
    return step * np.arange(first, last + 1) + 0.0  # no -0


def _truth() -> dict[str, Any]:
    dot = {"marker": "+", "markersize": 5, "markeredgewidth": 0.9, "linestyle": ""}
    return {**dot, "color": COLORS["truth"], "zorder": 5}


def _label(axes: Axes, i: int, j: int, names: Sequence[str]) -> None:
    """Numbers and names at the outer panels alone."""
    width, height = (side / len(names) - 1.0 for side in SIDES)
    for ticks, axis in (
        (_ticks(*axes.get_xlim(), width), axes.xaxis),
        (_ticks(*axes.get_ylim(), height, upright=True), axes.yaxis),
    ):
        axis.set_ticks(ticks, map(_text, ticks))
    bottom, left = i == len(names) - 1, j == 0 and i > 0
    axes.tick_params(labelbottom=bottom, labelleft=left, labelsize=6, length=2, pad=1.5)
    if bottom:
        axes.set_xlabel(parameter_name(names[j]), labelpad=1, fontsize=8)
    if left:
        axes.set_ylabel(parameter_name(names[i]), labelpad=1, fontsize=8)
    if i == j:
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
