"""The toy example: densities of theta along x, and the Fisher information there."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure, SubFigure

from robust_npe.plotting.cells import NothingToDrawError, require_one
from robust_npe.plotting.columns import tidy
from robust_npe.plotting.describing import defense_title, training_note
from robust_npe.plotting.layout import Part, figure_of
from robust_npe.plotting.style import COLORS, letter_panels

__all__ = ["toy_figure"]

SETTINGS = ("estimator", "beta", "defense_epsilon", "num_simulations", "seed")
HIGHEST = 0.35  # density that is black
NOTE = (
    "A: density of θ given x (each panel has the same grey values). B: Fisher information of "
    "that density with respect to x; dashed: of the true posterior."
)


@tidy
def toy_figure(table: pd.DataFrame) -> Figure:
    """Draw the true density, and those of estimators without and with a defense.

    Args:
        table: From `robust_npe.recipes.toy.toy_table`.

    Raises:
        NothingToDrawError: The table is empty.
        ValueError: It has two estimators with the same defense.
    """
    if table.empty:
        raise NothingToDrawError("no densities")
    parts = {str(name): rows for name, rows in table.groupby("defense", sort=False)}
    for name, rows in parts.items():
        require_one(rows, name, SETTINGS)
    truth = table[(table.what == "information") & (table.defense == "truth")]

    def draw(place: SubFigure) -> list[str]:
        shared: dict[str, Any] = {"squeeze": False, "sharex": True, "sharey": "row"}
        panels = place.subplots(2, len(parts), height_ratios=[1.7, 1], **shared)
        for (name, rows), (upper, lower) in zip(parts.items(), panels.T, strict=True):
            color = COLORS.get(name)
            image = _draw_density(upper, rows[rows.what == "density"])
            upper.set_title("true posterior" if name == "truth" else defense_title(rows))
            upper.title.set_color(color)
            lower.plot(truth.x, truth.value, "--", color=COLORS["truth"], linewidth=0.9)
            if name != "truth":
                along = rows[rows.what == "information"]
                lower.plot(along.x, along.value, color=color, linewidth=1.4)
            lower.set(xlabel="observation x", yscale="log")
        panels[0, 0].set_yticks([-5, 0, 5])
        panels[0, 0].set_ylabel(r"parameter $\theta$")
        panels[1, 0].set_ylabel(r"information $I_x$")
        place.colorbar(
            image, ax=list(panels[0]), label="density", pad=0.01, aspect=15, extend="max"
        )
        letter_panels(panels[:, 0])
        return [NOTE, training_note(table)]

    return figure_of([Part(draw, 88)])


def _draw_density(axes: Axes, rows: pd.DataFrame) -> QuadMesh:
    """The density as grey values, white where it is zero."""
    grid = rows.pivot_table(index="theta", columns="x", values="value")
    look: dict[str, Any] = {"cmap": "Greys", "vmin": 0, "vmax": HIGHEST, "shading": "nearest"}
    return axes.pcolormesh(grid.columns, grid.index, grid.to_numpy(), rasterized=True, **look)
