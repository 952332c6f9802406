"""The axis of likelihoods that defenses lose."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from robust_npe.plotting.names import number_text

__all__ = ["loss_axis"]

LINEAR = 0.5  # nats, up to which the symmetric axis is linear
POWERS = tuple(10.0**power for power in range(3, 12))
TICKS = (-10, -2, -0.5, -0.2, 0, 0.5, 2, 5, 10, 20, 50, 200, *POWERS)


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
        place = axes.xaxis.get_transform().transform
        low, high = place(np.array([min(x.min(), 0.0), x.max()]))
        kept = _apart(place(np.array(ticks)), 0.04 * columns * 1.24 * (high - low))
        axes.set_xticks([ticks[i] for i in kept], [_text(ticks[i]) for i in kept])
        axes.set_xticks([], minor=True)
        return [f"Likelihoods lost: logarithmic beyond {LINEAR:g} nats where they exceed 2."]
    axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 4, 10]))
    axes.xaxis.set_major_formatter(lambda x, _: number_text(x))
    return []


def _text(tick: float) -> str:
    return number_text(tick) if tick < 1e3 else f"$10^{{{np.log10(tick):.0f}}}$"


def _apart(places: NDArray[np.float64], distance: float) -> list[int]:
    """Leave out ticks whose labels would meet; zero stays, then those that are far from it."""
    kept: list[int] = []
    for i in sorted(range(len(places)), key=lambda i: -abs(places[i]) if places[i] else -np.inf):
        if (np.abs(places[kept] - places[i]) > distance).all():
            kept.append(i)
    return sorted(kept)
