"""What tables call things, as people write it."""

from __future__ import annotations

import math

import pandas as pd

__all__ = ["defense_name", "line_name", "radius_name", "task_name"]

TASKS = {
    "gaussian_linear": "Linear Gaussian",
    "lotka_volterra": "Lotka-Volterra",
    "vae": "VAE",
    "hodgkin_huxley": "Hodgkin-Huxley",
    "hodgkin_huxley_2d": "Hodgkin-Huxley, 2 parameters",
    "sir": "SIR",
    "spatial_sir": "Spatial SIR",
    "pyloric": "Pyloric network",
    "toy": "Toy example",
    "bernoulli_glm": "Bernoulli GLM",
    "bernoulli_glm_raw": "Bernoulli GLM, raw",
    "gaussian_linear_uniform": "Linear Gaussian, uniform prior",
    "gaussian_mixture": "Gaussian mixture",
    "slcp": "SLCP",
    "slcp_distractors": "SLCP with distractors",
    "two_moons": "Two moons",
}

LINES = {
    "attack": {"pgd": "PGD", "fgsm": "FGSM", "noise": "random noise"},
    "defense": {
        "none": "no defense",
        "fim": "FIM",
        "fim_eigenvalue": "FIM, largest eigenvalue",
        "adversarial_training": "adversarial training",
        "trades": "TRADES",
        "noise": "noise augmentation",
    },
}

UNITS = {
    "std": "standard deviations of x",
    "absolute": "units of x",
    "noise": "expected norms of the noise",
    "feature": "standard deviations of each feature",
    "auto": "distances of two simulations",
}

NORMS = {"l1": "L1", "l2": "L2", "linf": "L∞"}


def task_name(task: str) -> str:
    """Return the name of a task; that of a user's own task stays as it is."""
    name = task.removeprefix("sbibm/")
    return TASKS.get(name, name) + (" (sbibm)" if name != task else "")


def line_name(column: str, value: str) -> str:
    """Return the name of what a line or a row of panels is.

    Args:
        column: A column of the results, such as `attack`, `defense` or `beta`.
        value: Its value as text; a name may be followed by a space and settings.
    """
    if column not in LINES:
        return f"no {column}" if value == "nan" else f"{column} {value}"
    name, _, settings = value.partition(" ")
    return f"{LINES[column].get(name, name)} {settings}".strip()


def defense_name(name: str, beta: float | None, epsilon: float | None, others: str = "") -> str:
    """Return a defense with its settings, which may be missing, as in `fim beta=0.01`."""
    given = {"beta": beta, "eps": epsilon}
    settings = [f"{k}={v:g}" for k, v in given.items() if v is not None and not math.isnan(v)]
    return " ".join([name, *settings, others]).strip()


def radius_name(attacked: pd.DataFrame) -> str:
    """Return what a radius of these attacked rows is, with its unit and norm."""
    units = " or ".join(UNITS.get(unit, unit) for unit in attacked.epsilon_unit.unique())
    norms = ", ".join(NORMS.get(norm, norm) for norm in attacked.norm.unique())
    return f"perturbation radius, in\n{units} ({norms})"
