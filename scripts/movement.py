"""Draw sensitivity, legitimate movement and error where the true posterior is known.

python scripts/movement.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys

from robust_npe.plotting import movement_plot
from robust_npe.recipes import FigureScript, main

FIGURE = FigureScript(
    name="movement",
    recipes=["true_posterior"],
    draw=lambda tables: movement_plot(tables["results"]),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
