"""One observation, clean or attacked, with simulations from its posterior: traces and images."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.ticker import MaxNLocator

from robust_npe.plotting.style import COLORS

__all__ = ["BANDS", "STATE_COLORS", "draw_bands", "draw_images", "draw_traces", "is_image"]

BANDS = (("q01", "q99"), ("q05", "q95"), ("q175", "q825"))
STATE_COLORS = {"clean": COLORS["clean"], "attacked": COLORS["adversarial"]}
TIME = {"hodgkin_huxley": "time (ms)", "hodgkin_huxley_2d": "time (ms)"}
NAMES = {"V": "voltage\n(mV)"}
IMAGES = {"spatial_sir": "inferno", "vae": "gray_r"}


def is_image(rows: pd.DataFrame) -> bool:
    """Tell whether features have rows and columns."""
    return bool(rows.row.notna().any())


def draw_bands(axes: Axes, rows: pd.DataFrame, color: str) -> None:
    """Draw predictive quantiles: three bands and the median.

    Args:
        axes: Where.
        rows: Rows of one series with `statistic`, `position`, `value`.
        color: Of all of it.
    """
    quantiles = rows.pivot_table(index="position", columns="statistic", values="value")
    for low, high in BANDS:
        ends = quantiles[low], quantiles[high]
        axes.fill_between(quantiles.index, *ends, color=color, alpha=0.25, linewidth=0)


def draw_traces(figure: SubFigure, rows: pd.DataFrame) -> list[Axes]:
    """Draw what was observed over predictive bands: clean on the left, attacked on the right.

    Args:
        figure: Where.
        rows: Of one task and defense, from `robust_npe.recipes.examples`, without images.
    """
    names, task = list(dict.fromkeys(rows[rows.what == "observation"].name)), rows.task.iloc[0]
    panels = figure.subplots(len(names), 2, squeeze=False, sharex=True, sharey="row")
    for i, name in enumerate(names):
        for axes, (state, color) in zip(panels[i], STATE_COLORS.items(), strict=True):
            of_series = rows[(rows.name == name) & (rows.state == state)]
            draw_bands(axes, of_series[of_series.what == "predictive"], color)
            x = of_series[of_series.what == "observation"]
            axes.plot(x.position, x.value, color=COLORS["truth"], linewidth=0.7)
            axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(2))
            axes.tick_params(labelsize=6, length=2, pad=1.5)
        panels[i, 0].set_ylabel(NAMES.get(name, name), fontsize=7, labelpad=2)
    for axes in panels[-1]:
        axes.set_xlabel(TIME.get(task, "time"), fontsize=7, labelpad=1)
    return list(panels.flat)


def draw_images(figure: SubFigure, rows: pd.DataFrame) -> list[Axes]:
    """Draw the image that was observed and one simulation from its posterior, clean and attacked.

    Args:
        figure: Where.
        rows: As for `draw_traces`, with images.
    """
    panels = list(figure.subplots(1, 4, squeeze=False)[0])
    shown = [("observation", "", "observed"), ("simulation", "0", "simulated")]
    look: dict[str, Any] = {"cmap": IMAGES.get(rows.task.iloc[0], "gray"), "vmin": 0, "vmax": 1}
    pairs = [(state, *what) for state in STATE_COLORS for what in shown]
    for axes, (state, what, statistic, label) in zip(panels, pairs, strict=True):
        image = rows[(rows.state == state) & (rows.what == what) & (rows.statistic == statistic)]
        axes.imshow(image.pivot_table(index="row", columns="position", values="value"), **look)
        axes.set_title(label, fontsize=6.5, pad=2)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(visible=True, color=STATE_COLORS[state], linewidth=1.5)
    return panels
