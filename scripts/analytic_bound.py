"""Draw the movement of every estimator over the exact bound of the linear Gaussian task.

python scripts/analytic_bound.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys

from robust_npe.plotting import analytic_bound_plot
from robust_npe.recipes import FigureScript, main
from robust_npe.recipes.tables import selected

FIGURE = FigureScript(
    name="analytic_bound",
    recipes=["by_estimator"],
    gather=selected(task=["gaussian_linear"]),
    draw=lambda tables: analytic_bound_plot(tables["results"]),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
