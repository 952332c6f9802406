"""Fig. 6: the pyloric network, what it does under attack, and what a defense changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure, SubFigure

from robust_npe.plotting.cells import require_one
from robust_npe.plotting.columns import tidy
from robust_npe.plotting.coverage import coverage_part
from robust_npe.plotting.describing import (
    SETTINGS,
    attack_note,
    defense_title,
    divergence_text,
    rank_note,
    setup_note,
)
from robust_npe.plotting.layout import Part, figure_of
from robust_npe.plotting.observations import STATE_COLORS
from robust_npe.plotting.style import COLORS
from robust_npe.plotting.tolerance import tolerance_part

__all__ = ["pyloric_figure"]

RANGE = (-80.0, 50.0)  # mV
POSTERIORS = {"clean": r"$q(\theta|x)$", "attacked": r"$q(\theta|\tilde x)$"}
SOURCES = {"clean": r"$\theta\sim q(\theta|x)$", "attacked": r"$\theta\sim q(\theta|\tilde x)$"}
NOTE = (
    "The observed traces of the three cells (black) above simulations with parameters from the "
    "posterior (dark: high voltage)."
)
TRACE = 0.8  # height of the observed trace, in heights of the simulations below it


@tidy
def pyloric_figure(
    examples: pd.DataFrame, results: pd.DataFrame, metric: str = "kl_forward"
) -> Figure:
    """Draw predictive simulations, marginals, tolerance and coverage.

    Args:
        examples: From `robust_npe.recipes.pyloric_table`: the same observation and radius for each
            defense.
        results: Tidy results of the same runs.
        metric: Divergence of the tolerance plot.

    Raises:
        NothingToDrawError: The results lack the metric, or coverage.
        ValueError: A table mixes settings; the column is named.
    """
    parts = {str(name): rows for name, rows in examples.groupby("defense", sort=False)}
    for name, rows in parts.items():
        require_one(rows, name, SETTINGS)
    summary = tolerance_part(results, metric, "defense"), coverage_part(results, "defense")
    return figure_of(
        [
            Part(lambda place: _draw_traces(place, parts), 92),
            Part(lambda place: _draw_marginals(place, parts), 62),
            Part(lambda place: _draw_summary(place, summary), 58),
        ],
        [f"{attack_note(examples.iloc[0])} in A and B.", rank_note(examples), *setup_note(results)],
    )


def _draw_traces(figure: SubFigure, parts: Mapping[str, pd.DataFrame]) -> list[str]:
    """A column for each posterior; in each cell's panel, the observation above simulations."""
    columns = [(rows, state) for rows in parts.values() for state in STATE_COLORS]
    observed = columns[0][0][columns[0][0].what == "observation"]
    cells = list(dict.fromkeys(observed.name))
    panels = figure.subplots(len(cells), len(columns), squeeze=False, sharex=True)
    for column, (rows, state) in enumerate(columns):
        of_state = rows[rows.state == state]
        for cell, axes in zip(cells, panels[:, column], strict=True):
            _draw_cell(axes, of_state[of_state.name == cell], STATE_COLORS[state])
        title = f"{defense_title(rows)}, {SOURCES[state]}"
        panels[0, column].set_title(title, color=STATE_COLORS[state])
        panels[-1, column].set_xlabel("time (ms)")
    for axes, cell in zip(panels[:, 0], cells, strict=True):
        axes.set_ylabel(cell, fontweight="bold")
    _draw_scale(panels[0, -1], columns[0][0])
    return [NOTE]


def _draw_cell(axes: Axes, rows: pd.DataFrame, color: str) -> None:
    """The observed trace as a line, and below it one row of colour per simulation."""
    trace, simulated = (rows[rows.what == what] for what in ("observation", "simulation"))
    simulations = simulated.pivot_table(index="statistic", columns="position", values="value")
    count, end = len(simulations), trace.position.max()
    axes.imshow(
        simulations,
        cmap=LinearSegmentedColormap.from_list("voltage", ["white", color]),
        vmin=RANGE[0] + 20,  # rest is white
        vmax=RANGE[1] - 20,
        aspect="auto",
        extent=(0.0, end, count, 0.0),
        interpolation="nearest",
    )
    height = TRACE * count
    scaled = (trace.value - RANGE[0]) / (RANGE[1] - RANGE[0])
    axes.plot(trace.position, -1 - height * scaled, color=COLORS["truth"], linewidth=0.5)
    axes.set_ylim(count, -1.2 - height)
    axes.set_xlim(0, end)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.axhline(0, color="0.6", linewidth=0.5)
    axes.axhline(count, color="0.6", linewidth=0.5)


def _draw_scale(axes: Axes, rows: pd.DataFrame) -> None:
    """A bar of 50 mV beside the observed trace, and what the rows below it are."""
    count = rows[rows.what == "simulation"].statistic.nunique()
    end = rows[rows.what == "observation"].position.max()
    height = TRACE * count * 50 / (RANGE[1] - RANGE[0])
    bottom = -1 - 0.4 * TRACE * count
    bar = axes.vlines(1.03 * end, bottom - height, bottom, color=COLORS["truth"], linewidth=1.2)
    bar.set_clip_on(False)
    axes.text(1.05 * end, bottom - height / 2, "50 mV", va="center", fontsize=7)
    text = f"{count} simulations"
    axes.text(1.03 * end, count / 2, text, rotation=270, va="center", fontsize=7)


def _draw_marginals(figure: SubFigure, parts: Mapping[str, pd.DataFrame]) -> list[str]:
    """For each parameter, the 5-95 % and 25-75 % intervals in units of the prior's range."""
    panels = figure.subplots(len(parts), 1, squeeze=False, sharex=True)[:, 0]
    for axes, rows in zip(panels, parts.values(), strict=True):
        low, high = (rows[rows.what == w].set_index("name").value for w in ("low", "high"))
        names = list(low.index)
        share = (rows.value - rows.name.map(low)) / rows.name.map(high - low)
        shares = rows.assign(value=share)
        for state, shift in zip(STATE_COLORS, (-0.17, 0.17), strict=True):
            posterior = shares[(shares.what == "posterior") & (shares.state == state)]
            _draw_intervals(axes, posterior, names, state, shift)
        truth = shares[shares.what == "truth"].set_index("name").value[names]
        marks = {"marker": "_", "markersize": 7, "markeredgewidth": 1.2, "linestyle": ""}
        axes.plot(range(len(names)), truth, color=COLORS["truth"], label=r"true $\theta$", **marks)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlim(-0.7, len(names) - 0.3)
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
        text = f"{defense_title(rows)}: {divergence_text(rows.kl_forward.iloc[0])} here"
        axes.set_title(text, loc="right")
    panels[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    panels[-1].set_xticks(range(len(names)), names, rotation=90)
    figure.supylabel("share of the prior's range", fontsize=8)
    return ["Medians (dots), 25 to 75 % and 5 to 95 % of each posterior."]


def _draw_intervals(
    axes: Axes, samples: pd.DataFrame, names: list[str], state: str, shift: float
) -> None:
    """Medians and two intervals of each parameter, beside the place of the parameter."""
    wide = samples.pivot_table("value", "position", "name")[names]
    q05, q25, q50, q75, q95 = np.quantile(wide, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
    where, color = np.arange(len(names)) + shift, STATE_COLORS[state]
    axes.vlines(where, q05, q95, color=color, linewidth=0.8)
    axes.vlines(where, q25, q75, color=color, linewidth=2.5, label=POSTERIORS[state])
    dots: dict[str, Any] = {"markersize": 2, "markeredgewidth": 0.5, "markeredgecolor": color}
    axes.plot(where, q50, "o", color="white", **dots)


def _draw_summary(figure: SubFigure, parts: tuple[Part, Part]) -> list[str]:
    """Tolerance of all defenses, and coverage of each under attack."""
    places = figure.subfigures(1, 2, width_ratios=[1, 2])
    return [note for part, place in zip(parts, places, strict=True) for note in part.draw(place)]
