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
STEPS = np.array([0.2, 0.25, 0.4, 0.5, 0.6, 0.8, 1, 2, 2.5, 4, 5, 6, 8, 10])  # of ticks
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


def _ticks(low: float, high: float, across: int) -> Array:
    """Round numbers whose labels do not touch in one of so many panels, and not at its ends."""
    ticks = _spaced(low, high, 0.25 if across < 3 else 0.6)
    longest = max(len(number_text(tick)) for tick in ticks)
    if across < 3 and longest > 4:
        return _spaced(low, high, 0.5)
    return ticks[-1:] if across > 3 and longest > 3 else ticks


def _spaced(low: float, high: float, apart: float) -> Array:
    """Multiples of a round number that are such a share of the axis apart, one at least."""
    span = high - low
    steps = 10.0 ** np.floor(np.log10(span)) * STEPS
    wide = steps >= apart * span
    ticks = _multiples(steps[wide][0], low, high)
    if not len(ticks):  # one of those that are closer
        ticks = _multiples(steps[~wide][-1], low, high)[:1]
    return ticks


def _multiples(step: float, low: float, high: float) -> Array:
    margin = 0.03 * (high - low)
    first, last = np.ceil((low + margin) / step), np.floor((high - margin) / step)
    return step * np.arange(first, last + 1) + 0.0  # no -0


def _truth() -> dict[str, Any]:
    dot = {"marker": "+", "markersize": 5, "markeredgewidth": 0.9, "linestyle": ""}
    return {**dot, "color": COLORS["truth"], "zorder": 5}


def _label(axes: Axes, i: int, j: int, names: Sequence[str]) -> None:
    """Numbers and names at the outer panels alone."""
    for axis, ends in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        ticks = _ticks(*ends, len(names))
        axis.set_ticks(ticks, [number_text(tick) for tick in ticks])
    bottom, left = i == len(names) - 1, j == 0 and i > 0
    axes.tick_params(labelbottom=bottom, labelleft=left, labelsize=6, length=2, pad=1.5)
    if bottom:
        axes.set_xlabel(parameter_name(names[j]), labelpad=1, fontsize=8)
    if left:
        axes.set_ylabel(parameter_name(names[i]), labelpad=1, fontsize=8)
    if i == j:
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
