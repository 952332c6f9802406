"""The axis of likelihoods that defenses lose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

__all__ = ["loss_axis"]

LINEAR = 0.5  # nats, up to which the symmetric axis is linear
TICKS = (-10, -2, -0.5, -0.2, 0, 0.5, 2, 10, 50, 200)


def loss_axis(axes: Axes, x: pd.Series, columns: int = 3) -> list[str]:
    """Linear around zero, logarithmic where likelihoods lost differ by orders of magnitude.

    Args:
        axes: Of one of several panels.
        x: What is drawn.
        columns: Number of panels beside each other: in narrow ones there is room for few ticks.

    Returns:
        What a reader must be told.
    """
    axes.axvline(0, color="0.7", linewidth=0.7, zorder=0)
    if x.max() > 2:
        axes.set_xscale("symlog", linthresh=LINEAR, linscale=1.0)
        ticks = [t for t in TICKS if 1.5 * x.min() <= t <= 1.5 * x.max()]
        ends = _symmetric(np.array([min(x.min(), 0.0), x.max()]))
        ticks = _apart(ticks, 0.04 * columns * 1.24 * float(np.diff(ends)[0]))
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.set_xticks([], minor=True)
        return [f"Likelihoods lost: logarithmic beyond {LINEAR:g} nats where they exceed 2."]
    axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 4, 10]))
    axes.xaxis.set_major_formatter("{x:g}")
    return []


def _symmetric(values: np.ndarray) -> np.ndarray:
    """Return where an axis that is linear up to `LINEAR` and logarithmic beyond has values."""
    size = np.abs(values) / LINEAR
    return np.sign(values) * np.where(size > 1, 1 + np.log10(np.maximum(size, 1)), size)


def _apart(ticks: Sequence[float], distance: float) -> list[float]:
    """Leave out ticks whose labels would meet; zero stays, then those that are far from it."""
    kept: list[float] = []
    for tick in sorted(ticks, key=lambda t: -abs(t) if t else -np.inf):
        gaps = np.abs(_symmetric(np.array(kept)) - _symmetric(np.array([tick])))
        if (gaps > distance).all():
            kept.append(tick)
    return sorted(kept)
