"""One defense over its strength: divergence under attack against likelihood lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, to_hex
from matplotlib.figure import Figure, SubFigure

from robust_npe.plotting.cells import NothingToDrawError, require_one_setting
from robust_npe.plotting.columns import tidy
from robust_npe.plotting.describing import setup_note
from robust_npe.plotting.fronts import (
    LOST,
    clipped,
    draw_point,
    means,
    notes_of,
    outcomes,
)
from robust_npe.plotting.layout import Part, figure_of, label_axes, task_panels
from robust_npe.plotting.lines import log_limits
from robust_npe.plotting.losses import loss_axis
from robust_npe.plotting.names import in_paper_order, line_name
from robust_npe.plotting.style import COLORS, Look

__all__ = ["tradeoff_part", "tradeoff_plot"]


@tidy
def tradeoff_plot(
    table: pd.DataFrame, epsilon: float, metric: str = "kl_forward", defense: str = "fim"
) -> Figure:
    """Draw divergence under attack against likelihood lost over beta of one defense.

    Args:
        table: As in `outcomes`.
        epsilon: Radius of the attack.
        metric: Divergence.
        defense: Name of a defense that has beta.
    """
    part = tradeoff_part(table, epsilon, metric, defense)
    return figure_of([part], setup_note(table, part.tasks))


def tradeoff_part(
    table: pd.DataFrame, epsilon: float, metric: str = "kl_forward", defense: str = "fim"
) -> Part:
    """Return the part of a figure that `tradeoff_plot` consists of; arguments as there."""
    runs = outcomes(table[table.defense.isin(["none", defense])], epsilon, metric)
    runs = runs.assign(x=runs.nll - runs.nll_none, y=runs.kl)
    tasks, betas = in_paper_order(runs.task), runs.beta.dropna()
    if betas.empty:
        raise NothingToDrawError(f"no rows with defense {defense} and a beta")
    require_one_setting(runs[runs.family == defense], defense, but=("defense", "beta"))
    margin = 2.0 if betas.nunique() == 1 else 1.0
    colors = ScalarMappable(LogNorm(betas.min() / margin, betas.max() * margin), "viridis_r")

    def draw(place: SubFigure) -> list[str]:
        panels, told = task_panels(place, tasks, rows=1), list[str]()
        for task, axes in panels.items():
            points = means(runs[runs.task == task])
            log_limits(axes, points[["y", "y_least", "y_most"]].to_numpy().ravel())
            points = clipped(axes, points)
            axes.plot(points.x, points.y, color="0.6", linewidth=0.8, zorder=1)
            told += loss_axis(axes, points.x, len(tasks))
            for _, point in points.iterrows():
                plain = np.isnan(point.beta)
                color = COLORS["none"] if plain else to_hex(tuple(colors.to_rgba(point.beta)))
                draw_point(axes, point, Look(color, "s" if plain else "o"), 4)
            axes.margins(x=0.12)
        look: dict[str, Any] = {"aspect": 15, "pad": 0.01, "format": "%g", "label": "β"}
        look["ticks"] = sorted(betas.unique())
        place.colorbar(colors, ax=list(panels.values()), **look).minorticks_off()
        label_axes(place, LOST, f"KL under attack\nat radius {epsilon:g}, nats")
        name = line_name("defense", defense)
        return [f"Squares: no defense; circles: {name}.", *told, *notes_of(runs)]

    return Part(draw, 46.0, tasks=tasks)
