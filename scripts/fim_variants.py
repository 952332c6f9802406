"""Draw FIM by how its gradient is computed, and its largest eigenvalue.

python scripts/fim_variants.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys

from robust_npe.plotting import by_setting_plot
from robust_npe.plotting.names import named_variants
from robust_npe.recipes import FigureScript, main

FIGURE = FigureScript(
    name="fim_variants",
    recipes=["fim_variants"],
    draw=lambda tables: by_setting_plot(named_variants(tables["results"]), "defense"),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
