"""Small tables of single observations, as `robust_npe.recipes.examples` makes them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

SHARED = {
    "estimator": "maf",
    "beta": math.nan,
    "defense_epsilon": math.nan,
    "num_simulations": 100,
    "seed": 0,
    "attack": "pgd",
    "norm": "l2",
    "epsilon_unit": "std",
    "observation": 3,
    "quantile": 0.5,
    "diverged": 0,
    "scale": "smoke",
}
LEVELS = {"q01": -3.0, "q05": -2.0, "q175": -1.0, "q50": 0, "q825": 1.0, "q95": 2.0, "q99": 3.0}
SHIFT = 2.0  # of the first parameter under attack, in standard deviations
TIMES = np.arange(6.0)


def example(task="sir", defense="none", names=("beta", "gamma"), series=("infected",), **settings):
    """One example with Gaussian posteriors; an image if there is no series."""
    keys = {"task": task, "defense": defense, "epsilon": 0.2, "kl_forward": 1.25}
    keys |= SHARED | settings
    parts = [pd.DataFrame({"what": "truth", "state": "clean", "name": names, "value": 0.0})]
    for state, shift in (("clean", 0.0), ("attacked", SHIFT)):
        rows = [*_posterior(names, shift), *(_traces(series, shift) if series else _images(shift))]
        parts += [pd.DataFrame(row).assign(state=state) for row in rows]
    columns = ["what", "state", "name", "position", "row", "statistic", "value"]
    table = pd.concat(parts, ignore_index=True).reindex(columns=columns)
    return table.assign(**keys, statistic=table.statistic.fillna(""))


def _posterior(names, shift):
    generator = np.random.default_rng(0)
    for i, name in enumerate(names):
        value = generator.normal(size=200) + (shift if i == 0 else 0)
        yield {"what": "posterior", "name": name, "position": np.arange(200.0), "value": value}


def _traces(series, shift):
    for name in series:
        shared = {"name": name, "position": TIMES}
        yield {"what": "observation", "value": np.sin(TIMES) + shift, **shared}
        for statistic, level in LEVELS.items():
            value = np.sin(TIMES) + level
            yield {"what": "predictive", "statistic": statistic, "value": value, **shared}
        for i in range(2):
            value = np.sin(TIMES) + i
            yield {"what": "simulation", "statistic": str(i), "value": value, **shared}


def _images(shift):
    row, column = np.divmod(np.arange(9.0), 3)
    shared = {"name": "pixel", "position": column, "row": row}
    yield {"what": "observation", "value": np.linspace(0, 1, 9) + shift / 10, **shared}
    yield {"what": "simulation", "statistic": "0", "value": np.full(9, 0.5), **shared}
