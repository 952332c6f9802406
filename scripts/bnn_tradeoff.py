"""Draw robustness against accuracy of networks that SGD trains and HMC draws.

python scripts/bnn_tradeoff.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys

from robust_npe.plotting.bnn import tradeoff_figure
from robust_npe.recipes import FigureScript, main
from robust_npe.recipes.bnn import tradeoff_table

FIGURE = FigureScript(
    name="bnn_tradeoff",
    recipes=["bnn_tradeoff_sgd", "bnn_tradeoff_hmc"],
    gather=lambda recipes: {"networks": tradeoff_table(recipes)},
    draw=lambda tables: tradeoff_figure(tables["networks"]),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
