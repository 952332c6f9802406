"""Draw Fig. 4: tolerance and coverage without a defense, under PGD and under random noise.

python scripts/figure4.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys

from robust_npe.plotting import attacks_figure
from robust_npe.recipes import FigureScript, main

FIGURE = FigureScript(
    name="figure4",
    recipes=["figure4"],
    draw=lambda tables: attacks_figure(tables["results"]),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
