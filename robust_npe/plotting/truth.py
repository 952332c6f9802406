"""Figures of what is known of the true posterior: sensitivity, legitimate movement, error."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from robust_npe.plotting.cells import NothingToDrawError
from robust_npe.plotting.columns import tidy
from robust_npe.plotting.comparisons import C2ST, ERROR, MOVEMENT, SENSITIVITY, lines_part
from robust_npe.plotting.describing import setup_note
from robust_npe.plotting.layout import figure_of
from robust_npe.plotting.names import count_text, in_paper_order, task_name

__all__ = ["movement_plot", "true_posterior_plot"]

SAMPLED = {"reference_error": "error", "reference_movement": "legitimate_movement"}
"""What is measured by importance sampling where there is no closed form."""


@tidy
def movement_plot(table: pd.DataFrame, compare: str = "defense") -> Figure:
    """Draw sensitivity, legitimate movement and error under attack, where the true posterior is
    known in closed form or was computed (metric `reference`).

    Args:
        table: Results of one attack.
        compare: What the lines are.
    """
    known = _known(table)
    known = known[known.task.isin(known[known.metric == MOVEMENT.metric].task)]
    if known.empty:
        raise NothingToDrawError("no rows with metric legitimate_movement or reference_movement")
    part = lines_part(known, [SENSITIVITY, MOVEMENT, ERROR], compare, shared=True)
    return figure_of([part], [*_sampled_note(known), *setup_note(table, part.tasks)])


@tidy
def true_posterior_plot(table: pd.DataFrame, compare: str = "defense") -> Figure:
    """Draw distances between the estimated and the true posterior, clean (radius 0) and attacked.

    Args:
        table: Results of one attack, with the metric `true_posterior` or `reference`.
        compare: What the lines are.
    """
    known = _known(table)
    quantities = [q for q in (ERROR, C2ST) if (known.metric == q.metric).any()]
    if not quantities:
        raise NothingToDrawError("no rows with metric error or reference_error")
    part = lines_part(known, quantities, compare)
    return figure_of([part], [*_sampled_note(known), *setup_note(table, part.tasks)])


def _known(table: pd.DataFrame) -> pd.DataFrame:
    """Call what was computed by importance sampling as what is known in closed form, where nothing
    is known in closed form."""
    sampled = table.metric.isin([*SAMPLED])
    closed = table.task.isin(table[table.metric.isin([*SAMPLED.values()])].task)
    kept = table[~(sampled & closed)]
    return kept.assign(sampled=kept.metric.isin([*SAMPLED]), metric=kept.metric.replace(SAMPLED))


def _sampled_note(known: pd.DataFrame) -> list[str]:
    """Return for how many observations and on which tasks the true posterior was computed."""
    sampled = known[known.sampled & (known.statistic == "num_observations")]
    if sampled.empty:
        return []
    tasks = ", ".join(map(task_name, in_paper_order(sampled.task)))
    count = count_text(sampled.value.max())
    return [f"On {tasks} p is from importance sampling, for the first {count} observations alone."]
