"""Linear regression on bumps under Fisher-information regularisation."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from matplotlib.figure import Figure, SubFigure

from robust_npe.plotting.cells import NothingToDrawError, require_one
from robust_npe.plotting.columns import tidy
from robust_npe.plotting.layout import Part, add_legend, figure_of
from robust_npe.plotting.style import COLORS, letter_panels

__all__ = ["ridge_figure"]

DASHES = ("-", "--", "-.", ":")
NOTE = (
    "A: least-squares fits with 500 Gaussian bumps and a weak ridge penalty, to which beta adds "
    "the mean Fisher information at the data. B: the information, the squared slope of a fit over "
    "the variance of the noise, at the data (dots) and between them. Curves are cut at "
    "the ends of the axes."
)


@tidy
def ridge_figure(table: pd.DataFrame) -> Figure:
    """Draw the fits, and what their Fisher information with respect to x is.

    Args:
        table: From `robust_npe.recipes.regression.ridge_table`.

    Raises:
        NothingToDrawError: The table has no fits.
        ValueError: It mixes scales.
    """
    betas = np.sort(table[table.what == "fit"].beta.unique())
    if not len(betas):
        raise NothingToDrawError("no rows of fits")
    require_one(table, "the figure", ())
    shades = mpl.colormaps["magma"](np.linspace(0.35, 0.8, len(betas) - 1))
    colors = [COLORS["none"], *map(to_hex, shades)]
    data = table[table.what == "data"]

    def draw(place: SubFigure) -> list[str]:
        left, right = place.subplots(1, 2, squeeze=False)[0]
        truth = table[table.what == "truth"]
        left.plot(truth.x, truth.value, color="0.65", linewidth=2.5, label="sin x", zorder=0)
        left.plot(data.x, data.value, ".", color=COLORS["truth"], markersize=4, label="data")
        for i, (beta, color) in enumerate(zip(betas, colors, strict=True)):
            look: dict[str, Any] = {"color": color, "linestyle": DASHES[i % len(DASHES)]}
            of_beta = table[table.beta == beta]
            fit, information = (of_beta[of_beta.what == w] for w in ("fit", "information"))
            left.plot(fit.x, fit.value, label=f"β = {beta:g}", **look)
            right.plot(information.x, information.value, **look)
            at_data = np.interp(data.x, information.x, information.value)
            right.plot(data.x, at_data, ".", color=color, markersize=3)
        left.set(xlabel="x", ylabel="y", ylim=(-1.6, 1.6))
        right.set(xlabel="x", ylabel=r"Fisher information $I_x$", yscale="log", ylim=(1e-2, 1e4))
        letter_panels((left, right))
        add_legend(part, place, [left])
        scale = f", {table.scale.iloc[0]} scale" if "scale" in table else ""
        return [NOTE, f"{len(data)} points{scale}."]

    part = Part(draw, 58, ["sin x", "data", *(f"β = {beta:g}" for beta in betas)])
    return figure_of([part])
