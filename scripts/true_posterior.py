"""Draw the distance to the true posterior, clean and attacked.

python scripts/true_posterior.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys

from robust_npe.plotting import true_posterior_plot
from robust_npe.recipes import FigureScript, main

FIGURE = FigureScript(
    name="true_posterior",
    recipes=["true_posterior"],
    draw=lambda tables: true_posterior_plot(tables["results"]),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
