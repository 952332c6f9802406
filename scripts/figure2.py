"""Draw Fig. 2: density and Fisher information of the toy example, without a defense and with FIM.

python scripts/figure2.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys

from robust_npe.plotting import toy_figure
from robust_npe.recipes import FigureScript, main
from robust_npe.recipes.stored import experiments
from robust_npe.recipes.toy import toy_table

FIGURE = FigureScript(
    name="figure2",
    recipes=["figure2"],
    gather=lambda recipes: {"densities": toy_table(experiments(recipes))},
    draw=lambda tables: toy_figure(tables["densities"]),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
