"""Draw Fisher-information regularisation of linear regression, which needs no runs.

python scripts/ridge.py [--output outputs]
"""

from __future__ import annotations

import sys

from robust_npe.plotting import ridge_figure
from robust_npe.recipes import FigureScript, main
from robust_npe.recipes.regression import ridge_table

FIGURE = FigureScript(
    name="ridge",
    gather=lambda _: {"fits": ridge_table()},
    draw=lambda tables: ridge_figure(tables["fits"]),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
