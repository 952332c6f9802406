"""Draw robustness gained against the cost of training.

python scripts/cost.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys

from robust_npe.plotting import cost_plot
from robust_npe.plotting.names import named_variants
from robust_npe.recipes import FigureScript, main
from robust_npe.recipes.costs import results_with_costs

FIGURE = FigureScript(
    name="cost",
    recipes=["figure5", "alternatives", "fim_variants"],
    gather=results_with_costs,
    draw=lambda tables: cost_plot(named_variants(tables["results"]), epsilon=0.5),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
