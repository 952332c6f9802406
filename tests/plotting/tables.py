"""Small tables of results with known curves."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from robust_npe.plotting.cells import SETTINGS

EPSILONS = [0.1, 0.5, 2.0]
LEVELS = np.linspace(0, 1, 5)


def row(**changes):
    defaults = {
        "task": "gl",
        "estimator": "maf",
        "defense": "none",
        "beta": math.nan,
        "defense_epsilon": math.nan,
        "defense_settings": "",
        "num_simulations": 100,
        "seed": 0,
        "data_seed": 0,
        "attack": "pgd",
        "norm": "l2",
        "objective": "kl_forward",
        "attack_settings": "",
        "domain": "data",
        "epsilon": 0.1,
        "epsilon_unit": "std",
        "metric": "kl_forward",
        "statistic": "median",
        "level": math.nan,
        "value": 1.0,
    }
    assert set(changes) <= set(defaults)
    return {**defaults, **changes}


def divergences(base, metric="kl_forward", **keys):
    """Medians base * epsilon, with asymmetric quantiles around them."""
    factors = {"median": 1.0, "q15": 0.5, "q85": 3.0, "mean": 100.0}
    return [
        row(metric=metric, epsilon=e, statistic=s, value=base * e * f, **keys)
        for e in EPSILONS
        for s, f in factors.items()
    ]


def noise(base, **keys):
    return divergences(base, attack="noise", objective="", **keys)


def coverages(power, epsilon, attack="pgd", **keys):
    name = "none" if epsilon == 0 else attack
    objective = "" if name in ("none", "noise") else "kl_forward"
    shared = {"metric": "coverage", "epsilon": epsilon, "attack": name, "objective": objective}
    if name == "none":
        shared |= {"norm": "", "domain": ""}
    shared |= keys
    curve = [row(statistic="coverage", level=x, value=x**power, **shared) for x in LEVELS]
    return [*curve, row(statistic="signed_area", value=0.3, **shared)]


def clean(nll, seconds, diverged=0.0, **keys):
    """What is measured without attack: likelihood, and the training."""
    shared = {"attack": "none", "objective": "", "norm": "", "domain": "", "epsilon": 0.0, **keys}
    values = {"diverged": diverged, "seconds": seconds}
    training = [row(metric="training", statistic=s, value=v, **shared) for s, v in values.items()]
    likelihood = {"median": nll - 0.1, "q15": nll - 1, "q85": nll + 1, "mean": nll}
    return training + [
        row(metric="nll", statistic=s, value=v, **shared) for s, v in likelihood.items()
    ]


def table(*parts):
    """Rows of several runs: one for each task, training and unit of the radii."""
    rows = pd.DataFrame([r for part in parts for r in part])
    attack = ("attack", "norm", "objective", "attack_settings", "domain")
    named = ["task", *(name for name in SETTINGS if name not in attack), "seed", "data_seed"]
    runs = rows[named].itertuples(index=False)
    return rows.assign(run_id=list(map(str, runs)), epsilon_abs=rows.epsilon)
