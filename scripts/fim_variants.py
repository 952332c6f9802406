"""Draw FIM by how its gradient is computed, and its largest eigenvalue.

python scripts/fim_variants.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys

import pandas as pd

from robust_npe.plotting import by_setting_plot
from robust_npe.recipes import FigureScript, main

VARIANTS = {"gradient=exact": "averaged", "gradient=exact weight=1.0": "exact"}


def named(table: pd.DataFrame) -> pd.DataFrame:
    """Return results with the names of the variants."""
    variant = table.defense_settings.map(VARIANTS).fillna("")
    names = (table.defense + " " + variant).str.strip()
    return table.assign(defense=names.replace("fim", "fim fast"))


FIGURE = FigureScript(
    name="fim_variants",
    recipes=["fim_variants"],
    draw=lambda tables: by_setting_plot(named(tables["results"]), "defense"),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
