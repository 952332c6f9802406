"""Draw margins of VAE encoders against their bounds, by the weight of the KL in the ELBO.

python scripts/vae_margins.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pandas as pd

from robust_npe.plotting.margins import images_figure, margins_figure
from robust_npe.recipes import FigureScript, Recipe, main
from robust_npe.recipes.margins import margin_images, margins_table
from robust_npe.recipes.stored import experiments

RADIUS = 1.0


def gather(recipes: Sequence[Recipe]) -> dict[str, pd.DataFrame]:
    """Return margins of all observations, and images of two of them."""
    table = margins_table(recipes, RADIUS)
    return {"margins": table, "images": margin_images(experiments(recipes), table, RADIUS)}


FIGURE = FigureScript(
    name="vae_margins",
    recipes=["vae_margins"],
    gather=gather,
    draw=lambda tables: {
        "": margins_figure(tables["margins"]),
        "images": images_figure(tables["images"]),
    },
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
