"""How trainings went."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
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


def training_plot(histories: Sequence[pd.DataFrame]) -> Figure:
    """Draw losses of training and validation, and the learning rate, by epoch.

    Args:
        histories: One table for each network, see `robust_npe.training.history_table`.

    Raises:
        NothingToDrawError: There is no epoch.
    """
    if all(table.empty for table in histories):
        raise NothingToDrawError("no epochs of a training")

    def draw(place: SubFigure) -> list[str]:
        panels = place.subplots(2, 1, sharex=True, squeeze=False, height_ratios=[3, 1])
        losses, rates = panels[:, 0]
        for table in histories:
            for name, label, color in LINES:
                losses.plot(table.epoch, table[name], color=color, label=label)
            for epoch in table.epoch[table.is_best]:
                losses.axvline(epoch, color="0.5", linestyle="--", linewidth=0.8, label=BEST)
            rates.plot(table.epoch, table.learning_rate, color="0.3", drawstyle="steps-mid")
        losses.set_ylabel("loss")
        rates.set(ylabel="learning rate", yscale="log", xlabel="epoch")
        add_legend(part, place, [losses])
        return []

    part = Part(draw, 70, [label for _, label, _ in LINES] + [BEST], narrow=True)
    return figure_of([part])
