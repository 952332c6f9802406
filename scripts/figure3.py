"""Draw Fig. 3: an example attack for each task, and figure3_fim ... the same with each defense.

python scripts/figure3.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys

import pandas as pd
from matplotlib.figure import Figure

from robust_npe.plotting import examples_figure
from robust_npe.recipes import FigureScript, main
from robust_npe.recipes.examples import examples
from robust_npe.recipes.stored import experiments

RADII = {"lotka_volterra": 2.0, "vae": 2.0, "hodgkin_huxley": 1.0, "sir": 0.2, "spatial_sir": 2.0}


def draw(table: pd.DataFrame) -> dict[str, Figure]:
    """Draw one figure for each defense, which show the same parameters."""
    plain = table[table.defense == "none"]
    return {
        "" if name == "none" else str(name): examples_figure(rows, chosen_by=plain)
        for name, rows in table.groupby("defense")
    }


FIGURE = FigureScript(
    name="figure3",
    recipes=["figure3"],
    gather=lambda recipes: {"examples": examples(experiments(recipes), RADII)},
    draw=lambda tables: draw(tables["examples"]),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
