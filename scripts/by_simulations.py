"""Draw tolerance, coverage and likelihood by the number of simulations.

python scripts/by_simulations.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys

from robust_npe.plotting import by_setting_plot
from robust_npe.recipes import FigureScript, main

FIGURE = FigureScript(
    name="by_simulations",
    recipes=["by_simulations"],
    draw=lambda tables: by_setting_plot(tables["results"], "num_simulations"),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
