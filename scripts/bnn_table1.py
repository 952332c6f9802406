"""Draw what attacks leave of the accuracy of Bayesian classifiers, and a verdict.

python scripts/bnn_table1.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys

from robust_npe.plotting.bnn import suite_figure
from robust_npe.recipes import FigureScript, main
from robust_npe.recipes.bnn import suite_table

FIGURE = FigureScript(
    name="bnn_table1",
    recipes=["bnn_table1"],
    gather=lambda recipes: {"networks": suite_table(recipes)},
    draw=lambda tables: suite_figure(tables["networks"]),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
