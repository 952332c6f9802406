"""A neuron with two unknown conductances: one attack, without and with a defense."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from robust_npe.plotting.cells import NothingToDrawError, require_one
from robust_npe.plotting.columns import tidy
from robust_npe.plotting.describing import (
    SETTINGS,
    attack_note,
    defense_title,
    divergence_text,
    rank_note,
    training_note,
)
from robust_npe.plotting.layout import Part, figure_of
from robust_npe.plotting.observations import STATE_COLORS, draw_bands
from robust_npe.plotting.pairs import draw_regions, parameter_name
from robust_npe.plotting.style import COLORS

__all__ = ["neuron_figure"]

NOTE = (
    "Left: an observation, clean (blue) and attacked (orange), and their difference. Then the "
    "regions of 50 and 90 % of the posteriors given the clean (solid) and the attacked (dashed) "
    "observation; cross: true parameters. Right: simulations with parameters from these posteriors "
    "(bands of 65, 90 and 98 %, and single ones); black: the observation they follow from; below "
    "it is subtracted."
)


@tidy
def neuron_figure(table: pd.DataFrame) -> Figure:
    """Draw what an attack adds to a voltage trace, and what it does to posterior and predictions.

    Args:
        table: From `robust_npe.recipes.examples`, of one task with two parameters and a trace, with
            one or more defenses.

    Raises:
        NothingToDrawError: The table is empty.
        ValueError: A defense has more than one example, which differ in the column that is named.
    """
    if table.empty:
        raise NothingToDrawError("no examples")
    defenses = {str(name): rows for name, rows in table.groupby("defense", sort=False)}
    for name, rows in defenses.items():
        require_one(rows, name, SETTINGS)

    def draw(place: SubFigure) -> list[str]:
        places = place.subfigures(len(defenses), 1, squeeze=False)[:, 0]
        panels = [
            _draw_row(*row) for row in zip(places, defenses.values(), ascii_uppercase, strict=False)
        ]
        for alike in zip(*panels, strict=True):
            _share([axes for group in alike for axes in group])
        attack = f"{attack_note(table.iloc[0])}."
        return [NOTE, attack, rank_note(table), training_note(table)]

    return figure_of([Part(draw, 44.0 * len(defenses))])


def _draw_row(place: SubFigure, rows: pd.DataFrame, letter: str) -> tuple[list[Axes], ...]:
    """One defense; returns the panels of difference, posteriors, traces, residuals."""
    left, middle, right = place.subfigures(1, 3, width_ratios=[1, 1.05, 1.9])
    heights = {"height_ratios": [1.6, 1], "sharex": True}
    x, difference = left.subplots(2, 1, **heights)
    posteriors = middle.subplots()
    predictions, residuals = right.subplots(2, 2, **heights)
    _draw_observation(x, difference, rows)
    _draw_posteriors(posteriors, rows)
    for i, (state, color) in enumerate(STATE_COLORS.items()):
        of_state = rows[rows.state == state]
        _draw_predictions(predictions[i], of_state, color)
        _draw_predictions(residuals[i], _minus_observation(of_state), color)
        predictions[i].set_title(f"predicted, {state}")
        residuals[i].set_xlabel("time (ms)")
    residuals[0].set_ylabel("residual\n(mV)")
    look = {"color": COLORS.get(rows.defense.iloc[0]), "fontweight": "bold"}
    x.set_title(f"{letter}   {defense_title(rows)}", loc="left", **look)
    return [difference], [posteriors], [x, *predictions], [*residuals]


def _draw_observation(above: Axes, below: Axes, rows: pd.DataFrame) -> None:
    """Both observations, and their difference."""
    observed = rows[rows.what == "observation"]
    x = observed.pivot_table(index="position", columns="state", values="value")
    above.plot(x.clean, color=STATE_COLORS["clean"], linewidth=1.2)
    above.plot(x.attacked, color=STATE_COLORS["attacked"], linewidth=0.6)
    above.set_ylabel("voltage\n(mV)")
    below.axhline(0, color="0.7", linewidth=0.5, zorder=0)
    below.plot(x.attacked - x.clean, color=STATE_COLORS["attacked"], linewidth=0.6)
    below.set(ylabel="added\n(mV)", xlabel="time (ms)")


def _draw_posteriors(axes: Axes, rows: pd.DataFrame) -> None:
    """Regions of both posteriors, and the parameters that generated the observation."""
    samples, truth = rows[rows.what == "posterior"], rows[rows.what == "truth"]
    wide = samples.pivot_table(index=["state", "position"], columns="name", values="value")
    wide = wide[list(truth.name)]
    draw_regions(axes, {state: wide.loc[state].to_numpy() for state in STATE_COLORS})
    cross: dict[str, Any] = {"markersize": 6, "markeredgewidth": 1.0, "zorder": 5}
    axes.plot(*truth.value, "+", color=COLORS["truth"], **cross)
    names = [f"{parameter_name(n)} (mS/cm²)" if n.startswith("g_") else n for n in truth.name]
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.set_title(divergence_text(rows.kl_forward.iloc[0]), fontsize=7)


def _draw_predictions(axes: Axes, rows: pd.DataFrame, color: str) -> None:
    """Bands and single simulations behind the observation that they follow from."""
    draw_bands(axes, rows[rows.what == "predictive"], color)
    for _, trace in rows[rows.what == "simulation"].groupby("statistic"):
        axes.plot(trace.position, trace.value, color=color, linewidth=0.4, alpha=0.7)
    x = rows[rows.what == "observation"]
    axes.plot(x.position, x.value, color=COLORS["truth"], linewidth=0.4)


def _minus_observation(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of one state, less the observation at the same time."""
    observed = rows[rows.what == "observation"].set_index("position").value
    return rows.assign(value=rows.value - rows.position.map(observed))


def _share(panels: Sequence[Axes]) -> None:
    """Give panels the same ends."""
    for axis in "xy":
        ends = [getattr(axes, f"get_{axis}lim")() for axes in panels]
        for axes in panels:
            axes.set(**{f"{axis}lim": (min(e[0] for e in ends), max(e[1] for e in ends))})
            getattr(axes, f"{axis}axis").set_major_locator(MaxNLocator(3))
