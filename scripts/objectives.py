"""Draw tolerance and coverage by what the attack climbs.

python scripts/objectives.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys

from robust_npe.plotting import by_setting_plot
from robust_npe.recipes import FigureScript, main

FIGURE = FigureScript(
    name="objectives",
    recipes=["objectives"],
    draw=lambda tables: by_setting_plot(tables["results"], "objective"),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
