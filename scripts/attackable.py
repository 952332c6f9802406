"""Draw which epidemics can be attacked (SIR), without a defense and with FIM.

python scripts/attackable.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys

from robust_npe.plotting import attackable_figure
from robust_npe.recipes import FigureScript, main
from robust_npe.recipes.attackable import attackable_table
from robust_npe.recipes.stored import experiments

RADIUS = 0.2  # as in Fig. 3

FIGURE = FigureScript(
    name="attackable",
    recipes=["attackable"],
    gather=lambda recipes: {"observations": attackable_table(experiments(recipes), RADIUS)},
    draw=lambda tables: attackable_figure(tables["observations"]),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
