"""The main figures: what attacks do to undefended estimators, and what defenses change."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from robust_npe.plotting.cells import require_comparable
from robust_npe.plotting.columns import tidy
from robust_npe.plotting.coverage import coverage_part
from robust_npe.plotting.describing import setup_note
from robust_npe.plotting.layout import figure_of, with_notes
from robust_npe.plotting.tolerance import tolerance_part
from robust_npe.plotting.tradeoff import tradeoff_part

__all__ = ["attacks_figure", "defenses_figure"]


@tidy
def attacks_figure(table: pd.DataFrame, metric: str = "kl_forward") -> Figure:
    """Draw tolerance and coverage under attack and under noise (Fig. 4 of the paper).

    Args:
        table: Results of undefended estimators, attacks `pgd` (or another) and `noise`.
        metric: Divergence of the tolerance plot.
    """
    parts = [tolerance_part(table, metric), coverage_part(table)]
    return figure_of([with_notes(part, setup_note(table, part.tasks)) for part in parts])


@tidy
def defenses_figure(
    table: pd.DataFrame,
    betas: pd.DataFrame,
    epsilon: float,
    metric: str = "kl_forward",
    defense: str = "fim",
) -> Figure:
    """Draw tolerance by defense, coverage under attack of one defense, and its trade-off over beta
    (Fig. 5 of the paper).

    Args:
        table: Results of one attack; in each task one setting of each defense.
        betas: Results of one attack; in each task several beta of the defense, and no defense.
        epsilon: Radius of the trade-off.
        metric: Divergence of the tolerance plot and the trade-off.
        defense: The one whose coverage and trade-off is drawn.

    Raises:
        MixedRunsError: The tables differ in more than defenses and seeds; the column is named.
    """
    for task, rows in pd.concat([table, betas]).groupby("task"):
        require_comparable(rows, str(task), "defense")
    defended = table[table.defense == defense]
    parts = [tolerance_part(table, metric, "defense"), coverage_part(defended, "defense")]
    parts = [with_notes(part, setup_note(table, part.tasks)) for part in parts]
    tradeoff = tradeoff_part(betas, epsilon, metric, defense)
    return figure_of([*parts, with_notes(tradeoff, setup_note(betas, tradeoff.tasks))])
