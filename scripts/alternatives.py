"""Draw noise augmentation and ensembles beside no defense.

python scripts/alternatives.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys

from robust_npe.plotting import by_setting_plot
from robust_npe.recipes import FigureScript, main

FIGURE = FigureScript(
    name="alternatives",
    recipes=["alternatives"],
    draw=lambda tables: by_setting_plot(tables["results"], "defense"),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
