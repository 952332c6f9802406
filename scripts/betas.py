"""Draw FIM by the weight of its penalty.

python scripts/betas.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys

from robust_npe.plotting import by_setting_plot
from robust_npe.recipes import FigureScript, main

FIGURE = FigureScript(
    name="betas",
    recipes=["betas", "seeds"],
    draw=lambda tables: by_setting_plot(tables["results"], "beta"),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
