"""Example attacks: observations with predictive bands above posterior pair plots."""

from __future__ import annotations

import math
from string import ascii_uppercase

import pandas as pd
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from robust_npe.plotting.cells import NothingToDrawError, require_one
from robust_npe.plotting.columns import tidy
from robust_npe.plotting.describing import (
    DIVERGED,
    SETTINGS,
    defense_title,
    divergence_text,
    radius_text,
    rank_note,
    settings_note,
    training_note,
)
from robust_npe.plotting.layout import Part, figure_of
from robust_npe.plotting.names import in_paper_order, line_name, task_name, unit_name
from robust_npe.plotting.observations import STATE_COLORS, draw_images, draw_traces, is_image
from robust_npe.plotting.pairs import STATE_LINES, draw_pairs, most_moved
from robust_npe.plotting.style import COLORS, add_letter

__all__ = ["examples_figure"]

ACROSS = 3  # tasks beside each other
PARAMETERS = {
    "lotka_volterra": "Lotka-Volterra (without units): rates are exp(sigmoid(θ)).",
    "hodgkin_huxley": "Hodgkin-Huxley: conductances g in mS/cm², C in µF/cm², potentials E in mV.",
    "sir": "SIR (without units): rates are sigmoid(θ).",
}
"""What parameters are, by task."""
NOTE = (
    "Above: an observation (black), clean and attacked, over simulations from its posterior "
    "(bands of 65, 90 and 98 %; images: one of them). Below: the two posteriors, densities of "
    "equal height and regions of 50 and 90 %, estimated from samples by a Gaussian kernel."
)


@tidy
def examples_figure(
    table: pd.DataFrame, parameters: int = 4, chosen_by: pd.DataFrame | None = None
) -> Figure:
    """Draw one attacked observation for each task.

    Args:
        table: From `robust_npe.recipes.examples`, with one defense for each task.
        parameters: How many parameters to show at most: those that move most.
        chosen_by: A table of the same tasks in which they do, such as that without a defense, so
            that figures of several defenses show the same ones; None for the table itself.

    Raises:
        NothingToDrawError: The table is empty, or `chosen_by` lacks one of its tasks.
        ValueError: A task has more than one example, which differ in the column that is named.
    """
    if table.empty:
        raise NothingToDrawError("no examples")
    tasks = in_paper_order(table.task)
    for task in tasks:
        require_one(table[table.task == task], task, ("defense", *SETTINGS))
        if chosen_by is not None and task not in set(chosen_by.task):
            raise NothingToDrawError(f"no example of {task} that says which parameters move most")
    down = -(-(len(tasks) + 1) // ACROSS)  # the last one is the legend's

    def draw(place: SubFigure) -> list[str]:
        grid = place.subfigures(down, ACROSS, squeeze=False, wspace=0.03, hspace=0.02)
        blocks = list(grid.flat)
        for task, block, letter in zip(tasks, blocks, ascii_uppercase, strict=False):
            chosen = table if chosen_by is None else chosen_by
            moved = chosen[(chosen.task == task) & (chosen.what == "posterior")]
            _draw_example(block, table[table.task == task], most_moved(moved, parameters))
            add_letter(block, letter)
        _draw_legend(blocks[len(tasks)])
        where = "" if chosen_by is None else " without a defense"
        return [NOTE, *_notes(table, parameters, where)]

    return figure_of([Part(draw, 92.0 * down)])


def _draw_example(figure: SubFigure, rows: pd.DataFrame, names: list[str]) -> None:
    """One task: what was observed above the posteriors."""
    first = rows.iloc[0]
    mark = DIVERGED[0] if (rows.diverged > 0).any() else ""
    title = f"{task_name(first.task)}{mark}, {radius_text(first)}"
    figure.suptitle(f"{title}\n{divergence_text(first.kl_forward)}", fontsize=8)
    image = is_image(rows)
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 3.2] if image else [1, 1.7])
    draw_images(top, rows) if image else draw_traces(top, rows)
    samples = rows[rows.what == "posterior"]
    truth = rows[rows.what == "truth"].set_index("name").value[names]
    draw_pairs(bottom, samples, truth)


def _draw_legend(block: SubFigure) -> None:
    """What lines and colours of all blocks are."""
    labels = {"clean": r"clean, $q(\theta|x)$", "attacked": r"attacked, $q(\theta|\tilde x)$"}
    entries: list[Patch | Line2D] = [
        Patch(
            facecolor=(color, 0.4),
            edgecolor=color,
            linestyle=STATE_LINES[state],
            label=labels[state],
        )
        for state, color in STATE_COLORS.items()
    ]
    black = COLORS["truth"]
    entries += [Line2D([], [], linewidth=0.8, label="observation", color=black)]
    entries += [Line2D([], [], marker="+", linewidth=0.8, label=r"true $\theta$", color=black)]
    block.legend(handles=entries, loc="center")


def _defense_notes(table: pd.DataFrame) -> list[str]:
    """Each defense, and then its settings."""
    plain = table.assign(beta=math.nan, defense_epsilon=math.nan, diverged=0)
    names = [defense_title(rows) for _, rows in plain.groupby("defense", sort=False)]
    return [f"Defense: {', '.join(names)}.", *settings_note(table, "defense")]


def _notes(table: pd.DataFrame, parameters: int, where: str) -> list[str]:
    """What the examples are, and what is left out."""
    none = [*dict.fromkeys(table.defense)] == ["none"]
    notes = ["Without a defense."] if none else _defense_notes(table)
    attack = f"{', '.join(line_name('attack', name) for name in table.attack.unique())}."
    radii = f"Radii in {unit_name(table)}."
    notes += [attack, radii, rank_note(table), training_note(table)]
    many = table[table.what == "truth"].groupby("task", sort=False).name.nunique()
    notes += [note for task, note in PARAMETERS.items() if task in set(table.task)]
    return notes + [
        f"{task_name(str(task))}: the {parameters} of {count} parameters that move most{where}."
        for task, count in many[many > parameters].items()
    ]
