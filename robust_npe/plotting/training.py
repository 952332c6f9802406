"""How trainings went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from robust_npe.plotting.cells import NothingToDrawError
from robust_npe.plotting.layout import Part, add_legend, figure_of
from robust_npe.plotting.style import COLORS

__all__ = ["training_plot"]

LINES = (
    ("train_loss", "training", COLORS["clean"]),
    ("validation_loss", "validation", COLORS["adversarial"]),
)
BEST = "best epoch, whose weights are kept"
CHAIN, WARM_UP = "a chain of a sampler", "end of warm-up"
RATE: dict[str, Any] = {"color": "0.3", "drawstyle": "steps-mid"}
USUAL = 0.95  # quantile of losses
FAR = 20.0  # times their range: more than the first epochs of a training that goes well
MARK: dict[str, Any] = {"color": "0.5", "linestyle": "--", "linewidth": 0.8}


def training_plot(histories: Sequence[pd.DataFrame]) -> Figure:
    """Draw losses and the learning rate by epoch; of samplers, log density, acceptance and step
    size by trajectory, a line for each chain.

    Args:
        histories: One table for each network, as `robust_npe.training.read_history` returns them.

    Raises:
        NothingToDrawError: There is no epoch.
    """
    tables = [table for table in histories if len(table)]
    if not tables:
        raise NothingToDrawError("no epochs of a training")
    draw, heights, legend = (
        (_draw_chains, [3, 1.5, 1.5], [CHAIN, WARM_UP])
        if "trajectory" in tables[0]
        else (_draw_epochs, [3, 1], [*(label for _, label, _ in LINES), BEST])
    )

    def drawn(place: SubFigure) -> list[str]:
        grid = place.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
        panels = [*grid[:, 0]]
        for table in tables:
            draw(panels, table)
        add_legend(part, place, panels[:1])
        return _without_outliers(panels[0], tables) if draw is _draw_epochs else []

    part = Part(drawn, 70 if len(heights) == 2 else 100, legend, narrow=True)
    return figure_of([part])


def _draw_epochs(panels: Sequence[Axes], table: pd.DataFrame) -> None:
    losses, rates = panels
    for name, label, color in LINES:
        if name in table:  # inference has no validation
            losses.plot(table.epoch, table[name], color=color, label=label)
    if "is_best" in table:
        for epoch in table.epoch[table.is_best]:
            losses.axvline(epoch, label=BEST, **MARK)
    rates.plot(table.epoch, table.learning_rate, **RATE)
    losses.set_ylabel("loss")
    rates.set(ylabel="learning rate", yscale="log", xlabel="epoch")


def _without_outliers(axes: Axes, tables: Sequence[pd.DataFrame]) -> list[str]:
    """End an axis below losses that would hide all others, and say so."""
    names = [name for name, _, _ in LINES if name in tables[0]]
    values = pd.concat([table[name] for table in tables for name in names])
    values = values[np.isfinite(values)]
    usual, low = values.quantile(USUAL), values.min()
    if not values.max() - usual > FAR * (usual - low) > 0:
        return []
    axes.set_ylim(low - 0.05 * (usual - low), top := usual + usual - low)
    return [f"{(values > top).sum()} losses, up to {values.max():.2g}, lie above the axis."]


def _draw_chains(panels: Sequence[Axes], table: pd.DataFrame) -> None:
    densities, acceptances, sizes = panels
    color = COLORS["clean"]
    for _, chain in table.groupby("chain"):
        look: dict[str, Any] = {"color": color, "linewidth": 0.6, "label": CHAIN}
        densities.plot(chain.trajectory, chain.log_density, **look)
        acceptances.plot(chain.trajectory, chain.acceptance, **look)
        sizes.plot(chain.trajectory, chain.step_size, **look)
    for panel in panels:
        panel.axvline(table.is_warm_up.sum() / table.chain.nunique() - 0.5, label=WARM_UP, **MARK)
    densities.set_ylabel("log density")
    acceptances.set(ylabel="acceptance", ylim=(-0.05, 1.05))
    sizes.set(ylabel="step size", yscale="log", xlabel="trajectory")
