"""The toy example: densities of theta along x, and the Fisher information there."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from robust_npe.plotting.describing import defense_title, require_one, training_note
from robust_npe.plotting.style import COLORS, NothingToDrawError, add_caption, new_figure, style

__all__ = ["toy_figure"]

SETTINGS = ("estimator", "beta", "defense_epsilon", "num_simulations", "seed")
NOTE = (
    "A: density of theta given x (each panel has the same grey values). B: Fisher information of "
    "that density with respect to x; dashed: of the true posterior."
)


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
    densities, informed = (table[table.what == w] for w in ("density", "information"))
    names = list(dict.fromkeys(table.defense))
    truth = informed[informed.defense == "truth"]
    look = {"cmap": "Greys", "vmin": 0, "vmax": 0.35, "shading": "nearest", "rasterized": True}
    with style():
        figure = new_figure(6.69, 3.5)
        shared = {"squeeze": False, "sharex": True, "sharey": "row"}
        panels = figure.subplots(2, len(names), height_ratios=[1.7, 1], **shared)
        for name, (upper, lower) in zip(names, panels.T, strict=True):
            rows, along = densities[densities.defense == name], informed[informed.defense == name]
            require_one(table[table.defense == name], name, SETTINGS)
            title = "true posterior" if name == "truth" else defense_title(rows)
            color = COLORS["truth" if name == "truth" else name]
            grid = rows.pivot_table(index="theta", columns="x", values="value")
            image = upper.pcolormesh(grid.columns, grid.index, grid, **look)
            upper.set_title(title, color=color)
            lower.plot(truth.x, truth.value, "--", color=COLORS["truth"], linewidth=0.9)
            if name != "truth":
                lower.plot(along.x, along.value, color=color, linewidth=1.4)
            lower.set(xlabel="observation x", yscale="log")
        panels[0, 0].set_ylabel(r"parameter $\theta$")
        panels[1, 0].set_ylabel(r"information $I_x$")
        figure.colorbar(image, ax=list(panels[0]), label="density", pad=0.01, aspect=15)
        for axes, letter in zip(panels[:, 0], "AB", strict=True):
            axes.set_title(letter, loc="left", fontweight="bold")
        add_caption(figure, [NOTE, training_note(table)])
    return figure
