"""Draw Fig. 1: a neuron with two unknown conductances under attack, without a defense and with FIM.

python scripts/figure1.py [--scale laptop] [--output outputs]
"""

from __future__ import annotations

import sys

from robust_npe.plotting import neuron_figure
from robust_npe.recipes import FigureScript, main
from robust_npe.recipes.examples import examples
from robust_npe.recipes.stored import experiments

RADIUS = {"hodgkin_huxley_2d": 1.0}
COUNTS = {"num_simulations": 200, "num_traces": 3}

FIGURE = FigureScript(
    name="figure1",
    recipes=["figure1"],
    gather=lambda recipes: {"examples": examples(experiments(recipes), RADIUS, **COUNTS)},
    draw=lambda tables: neuron_figure(tables["examples"]),
)

if __name__ == "__main__":
    sys.exit(main(FIGURE))
