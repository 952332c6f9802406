"""Draw seconds of training by the number of simulations, estimator and defense.

python scripts/run_time.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from robust_npe.plotting.comparisons import SECONDS, lines_part
from robust_npe.plotting.describing import setup_note
from robust_npe.plotting.layout import Part, figure_of, with_notes
from robust_npe.recipes import FigureScript, Recipe, main
from robust_npe.recipes.costs import results_with_costs

RECIPES = {"by_simulations": "num_simulations", "by_estimator": "estimator", "figure5": "defense"}


def gather(recipes: Sequence[Recipe]) -> dict[str, pd.DataFrame]:
    """Return what trainings took, one table for each part."""
    tables = {recipe.name: results_with_costs([recipe])["results"] for recipe in recipes}
    return {name: table[table.metric == "training"] for name, table in tables.items()}


def draw(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw one part for each table."""
    return figure_of([_part(tables[name], column) for name, column in RECIPES.items()])


def _part(table: pd.DataFrame, column: str) -> Part:
    part = lines_part(table, [SECONDS], column, column, lines=1)
    return with_notes(part, setup_note(table, part.tasks))


FIGURE = FigureScript(
    name="run_time",
    recipes=list(RECIPES),
    gather=gather,
    draw=draw,
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
