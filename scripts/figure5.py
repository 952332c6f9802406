"""Draw Fig. 5: tolerance by defense, coverage with FIM, and its trade-off over beta.

python scripts/figure5.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pandas as pd

from robust_npe.plotting import defenses_figure
from robust_npe.recipes import FigureScript, Recipe, main


def gather(recipes: Sequence[Recipe]) -> dict[str, pd.DataFrame]:
    """Return the defenses with one setting each, and FIM over beta beside no defense."""
    results, *betas = (recipe.table() for recipe in recipes)
    return {"results": results, "betas": pd.concat(betas, ignore_index=True)}


FIGURE = FigureScript(
    name="figure5",
    recipes=["figure5", "betas", "seeds"],
    gather=gather,
    draw=lambda tables: defenses_figure(tables["results"], tables["betas"], epsilon=0.5),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
