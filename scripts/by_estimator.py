"""Draw tolerance, coverage and likelihood by estimator.

python scripts/by_estimator.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys

from robust_npe.plotting import by_setting_plot
from robust_npe.recipes import FigureScript, main

FIGURE = FigureScript(
    name="by_estimator",
    recipes=["by_estimator"],
    draw=lambda tables: by_setting_plot(tables["results"], "estimator"),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
