"""Draw adversarial training and TRADES by their training radius.

python scripts/training_epsilon.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys

from robust_npe.plotting import by_setting_plot
from robust_npe.recipes import FigureScript, main
from robust_npe.recipes.tables import selected

DEFENSES = ["adversarial_training", "trades"]

FIGURE = FigureScript(
    name="training_epsilon",
    recipes=["training_epsilon", "figure5", "seeds"],
    gather=selected(defense=["none", *DEFENSES]),
    draw=lambda tables: {
        name: by_setting_plot(
            tables["results"][tables["results"].defense.isin(["none", name])], "defense_epsilon"
        )
        for name in DEFENSES
    },
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
