"""Draw Fig. 6: the pyloric network under attack, without a defense and with FIM.

python scripts/figure6.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pandas as pd

from robust_npe.plotting import pyloric_figure
from robust_npe.recipes import FigureScript, Recipe, main, results
from robust_npe.recipes.pyloric import pyloric_table
from robust_npe.recipes.stored import experiments


def gather(recipes: Sequence[Recipe]) -> dict[str, pd.DataFrame]:
    """Return one example, and the results of all radii."""
    return {"examples": pyloric_table(experiments(recipes)), **results(recipes)}


FIGURE = FigureScript(
    name="figure6",
    recipes=["figure6"],
    gather=gather,
    draw=lambda tables: pyloric_figure(tables["examples"], tables["results"]),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
