"""Draw defenses at equal likelihood: divergence under attack against likelihood lost.

python scripts/fronts.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys

from robust_npe.plotting import front_plot
from robust_npe.recipes import FigureScript, main

FIGURE = FigureScript(
    name="fronts",
    recipes=["figure5", "betas", "seeds", "training_epsilon"],
    draw=lambda tables: front_plot(tables["results"], epsilon=0.5),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
