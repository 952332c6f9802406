"""Settings of defenses by likelihood and robustness, and the front that no others beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from robust_npe.plotting.cells import marks_note, marks_of
from robust_npe.plotting.layout import (
    Part,
    add_legend,
    figure_of,
    label_axes,
    rows_of,
    task_panels,
)
from robust_npe.plotting.lines import log_limits, looks_of
from robust_npe.plotting.losses import loss_axis
from robust_npe.plotting.names import line_name
from robust_npe.plotting.style import Look

__all__ = ["pareto_plot"]

FRONT = "front"


def pareto_plot(points: pd.DataFrame, max_nll_loss: float, epsilon: float) -> Figure:
    """Draw divergence under attack against likelihood lost: settings of defenses, and their front.

    Args:
        points: From `robust_npe.pareto.fronts`.
        max_nll_loss: Up to where the panels are shaded, nats.
        epsilon: Radius of the attack, for the label.
    """
    points = points[np.isfinite(points.loss)]
    groups, looks = list(points.group.unique()), looks_of(points, "defense")
    relative = " or ".join(points.relative_to.unique())
    labels = f"clean NLL, in nats above {relative}", f"KL under attack\nat radius {epsilon:g}, nats"

    def draw(place: SubFigure) -> list[str]:
        told = []
        for name, axes in task_panels(place, groups).items():
            own = points[points.group == name]
            told += loss_axis(axes, own.loss)
            log_limits(axes, own.kl.to_numpy())
            _draw_settings(axes, own, looks)
            low, high = axes.get_xlim()
            axes.axvspan(low, min(max_nll_loss, high), color="0.93", zorder=-1)
            axes.set_xlim(low, high)
        label_axes(place, *labels)
        add_legend(part, place, place.axes)
        return [*_notes(points), *told, f"Shaded: at most {max_nll_loss:g} nats lost."]

    legend = [FRONT, *(line_name("defense", family) for family in looks)]
    part = Part(draw, 52.0 * rows_of(len(groups)) + 6, legend, narrow=len(groups) == 1)
    return figure_of([part])


def _draw_settings(axes: Axes, own: pd.DataFrame, looks: Mapping[str, Look]) -> None:
    """Draw the settings of one panel, small and hollow where another one beats them."""
    shown = own.assign(kl=own.kl.clip(*axes.get_ylim()))
    front = shown[shown.non_dominated].sort_values("loss")
    axes.step(front.loss, front.kl, where="post", color="0.4", linewidth=0.8, label=FRONT, zorder=1)
    for family, look in reversed([*looks.items()]):  # no defense on top
        points = shown[shown.defense == family]
        if points.empty:
            continue
        style: dict[str, Any] = {"color": look.color, "marker": look.marker, "linestyle": "none"}
        best, beaten = points[points.non_dominated], points[~points.non_dominated]
        label = line_name("defense", family)
        axes.plot(best.loss, best.kl, markersize=5, label=label, **style)
        axes.plot(beaten.loss, beaten.kl, markersize=3, markerfacecolor="white", **style)
    for point in shown.to_dict("records"):
        where = point["loss"], point["kl"]
        axes.annotate(marks_of(point), where, (2, 2), textcoords="offset points", fontsize=7)


def _notes(points: pd.DataFrame) -> list[str]:
    """Return what a reader must be told."""
    notes = ["Small and hollow: another setting is at least as good in both."]
    if ((points.kl <= 0) | np.isinf(points.kl)).any():
        notes.append("At an end of the axis: KL not told from zero, or not finite.")
    if points.seeds.max() > 1:
        notes.append(f"Means over up to {points.seeds.max()} seeds.")
    return [*notes, *marks_note(points)]
