"""Draw Fig. 3: an example attack for each task, and figure3_fim ... the same with each defense.

python scripts/figure3.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys

from robust_npe.plotting import examples_figure
from robust_npe.recipes import FigureScript, main
from robust_npe.recipes.examples import examples
from robust_npe.recipes.stored import experiments

RADII = {"lotka_volterra": 2.0, "vae": 2.0, "hodgkin_huxley": 1.0, "sir": 0.2, "spatial_sir": 2.0}

FIGURE = FigureScript(
    name="figure3",
    recipes=["figure3"],
    gather=lambda recipes: {"examples": examples(experiments(recipes), RADII)},
    draw=lambda tables: {
        "" if defense == "none" else str(defense): examples_figure(rows)
        for defense, rows in tables["examples"].groupby("defense")
    },
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
