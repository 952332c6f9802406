"""Draw what attacks find, from random noise to the standard evaluation.

python scripts/attack_strength.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys

from robust_npe.plotting import attack_strength_plot
from robust_npe.recipes import FigureScript, main

FIGURE = FigureScript(
    name="attack_strength",
    recipes=["attack_strength"],
    draw=lambda tables: attack_strength_plot(tables["results"]),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
