"""Draw expected gradients of Bayesian networks on half moons.

python scripts/bnn_moons.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys

from robust_npe.plotting.bnn import gradients_figure
from robust_npe.recipes import FigureScript, main
from robust_npe.recipes.bnn import gradients_table

FIGURE = FigureScript(
    name="bnn_moons",
    recipes=["bnn_moons"],
    gather=lambda recipes: {"networks": gradients_table(recipes)},
    draw=lambda tables: gradients_figure(tables["networks"]),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
