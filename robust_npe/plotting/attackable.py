"""Which epidemics can be attacked: the divergence over the plane of true parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MultipleLocator, NullLocator

from robust_npe.plotting.cells import NothingToDrawError, require_one
from robust_npe.plotting.columns import tidy
from robust_npe.plotting.describing import attack_note, defense_title, training_note
from robust_npe.plotting.layout import Part, figure_of
from robust_npe.plotting.style import COLORS, letter_panels
from robust_npe.plotting.tolerance import LABELS

__all__ = ["attackable_figure"]

SETTINGS = ("beta", "defense_epsilon", "seed")
COMMON = ("task", "estimator", "num_simulations", "attack", "norm", "epsilon", "epsilon_unit")
PARTS = 8
LOWEST = 1e-4  # nats; below, an estimate is noise
NOTE = (
    "A, B: each point is an attacked observation at the parameters that generated it; on the line "
    "an infected person infects one other at first (contact and recovery rate are equal). C: the "
    "same against the largest number observed (in a population of 5, with noise), and medians of "
    f"eighths of the observations. Estimates below {LOWEST:g} nats are drawn there."
)


@tidy
def attackable_figure(table: pd.DataFrame) -> Figure:
    """Draw the divergence under attack over the parameters of SIR, and against the epidemic's peak.

    Args:
        table: From `robust_npe.recipes.attackable_table`, at one radius.

    Raises:
        NothingToDrawError: The table is empty.
        ValueError: A defense has rows of several settings; the column is named.
    """
    if table.empty:
        raise NothingToDrawError("no attacked observations")
    require_one(table, "the figure", COMMON)
    parts = {str(name): rows for name, rows in table.groupby("defense", sort=False)}
    scale = LogNorm(*np.quantile(table.kl_forward.clip(lower=LOWEST), [0.02, 0.98]))

    def draw(place: SubFigure) -> list[str]:
        widths = [*[1.0] * len(parts), 1.1]
        panels = place.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
        for (name, rows), axes in zip(parts.items(), panels, strict=False):
            require_one(rows, name, SETTINGS)
            points = _draw_plane(axes, rows, scale)
            axes.set_title(defense_title(rows), color=COLORS.get(name))
            _draw_peaks(panels[-1], rows, name)
        panels[0].set_ylabel("logit of the recovery rate")
        look: dict[str, Any] = {"aspect": 25, "shrink": 0.85, "pad": 0.02, "extend": "both"}
        place.colorbar(points, ax=list(panels[:-1]), label=LABELS["kl_forward"], **look)
        _label_peaks(panels[-1])
        letter_panels(panels)
        first, count = table.iloc[0], table.observation.nunique()
        what = f"{attack_note(first)}; {count} observations."
        return [NOTE, what, training_note(table)]

    return figure_of([Part(draw, 60)])


def _label_peaks(axes: Axes) -> None:
    """Axes of the last panel, with room for the legend."""
    axes.set(xscale="log", yscale="log", xlabel="largest number of infected")
    axes.set(
        ylabel="movement, nats",
        ylim=(None, 50 * axes.get_ylim()[1]),
    )
    axes.set_xticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_box_aspect(1)  # as high as the others
    axes.legend(loc="upper right", handlelength=2.5)


def _draw_plane(axes: Axes, rows: pd.DataFrame, scale: LogNorm) -> PathCollection:
    """Observations at their true parameters, the most divergent ones on top."""
    rows = rows.sort_values("kl_forward")
    edges: dict[str, Any] = {"s": 7, "edgecolors": "0.5", "linewidths": 0.15}
    values: dict[str, Any] = {"c": rows.kl_forward.clip(lower=LOWEST), "norm": scale}
    points = axes.scatter(rows.theta_1, rows.theta_2, cmap="magma_r", **values, **edges)
    plane = rows[["theta_1", "theta_2"]].to_numpy()
    ends = plane.min() - 0.3, plane.max() + 0.3
    axes.plot(ends, ends, color="0.4", linewidth=0.8, zorder=0)
    axes.set(xlim=ends, ylim=ends, xlabel="logit of the contact rate")
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(5))
    return points


def _draw_peaks(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    """The divergence against the largest feature: points, and medians of equal parts."""
    look: dict[str, Any] = {"color": COLORS.get(name)}
    shown = rows.kl_forward.clip(lower=LOWEST)
    axes.plot(rows.highest, shown, ".", markersize=2, alpha=0.4, **look)
    part = pd.qcut(rows.highest, PARTS, labels=False, duplicates="drop")
    medians = rows.groupby(part)[["highest", "kl_forward"]].median()
    look |= {"marker": "o" if name == "none" else "^", "label": defense_title(rows)}
    axes.plot(medians.highest, medians.kl_forward.clip(lower=LOWEST), markersize=4, **look)
