r"""Fisher-information regularisation where it has a closed form: linear regression on bumps.

A Gaussian q(y|x) = N(w^T phi(x), sigma^2) has the Fisher information I_x = (w^T phi'(x))^2 /
sigma^2 with respect to x. So the mean over n points of -log q(y|x) + beta I_x is, up to a constant
and the factor n sigma^2, half of |y - Phi w|^2 + 2 beta |Phi' w|^2: a ridge regression that
penalises slopes at the data, beside a little of the usual kind.

References:
    Gloeckler, Deistler & Macke (2023), "Adversarial robustness of amortized Bayesian inference",
    https://arxiv.org/abs/2305.14984, appendix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robust_npe.checks import require_not_negative, require_positive
from robust_npe.random import stream
from robust_npe.recipes.examples import rounded

__all__ = ["bumps", "fim_ridge", "ridge_table"]

Array = NDArray[np.float64]

CENTRES = np.linspace(-4, 4, 500)
POINTS, SIGMA = 40, 0.1
BETAS = (0.0, 0.1, 1.0, 10.0)
PRIOR = SIGMA**2  # weights are N(0, 1) a priori: 40 points do not determine 500 of them


def bumps(x: Array) -> tuple[Array, Array]:
    """Return phi(x) = exp(-2 (x - c)^2) of 500 centres and its derivative, both `(N, 500)`."""
    distance = x[:, None] - CENTRES
    phi = np.exp(-2 * distance**2)
    return phi, -4 * distance * phi


def fim_ridge(x: Array, y: Array, beta: float, ridge: float = PRIOR) -> Array:
    """Return the weights that minimise |y - Phi w|^2 + 2 beta |Phi' w|^2 + ridge |w|^2.

    Args:
        x: Inputs, shape `(N,)`.
        y: Targets, shape `(N,)`.
        beta: Weight of the Fisher information, not negative.
        ridge: Weight of the squared weights, positive.
    """
    require_not_negative("beta", beta)
    require_positive("ridge", ridge)
    phi, slope = bumps(x)
    system = phi.T @ phi + 2 * beta * slope.T @ slope + ridge * np.eye(len(CENTRES))
    return np.asarray(np.linalg.solve(system, phi.T @ y), dtype=np.float64)


def ridge_table(betas: Sequence[float] = BETAS, seed: int = 0) -> pd.DataFrame:
    """Return the data, the function behind them, and for each beta the fit and its information.

    Columns are `what` (data, truth, fit, information: I_x), `beta` (empty for data and truth), `x`
    and `value`. The 40 points are x ~ 2 N(0, 1), y = sin x + 0.1 N(0, 1).
    """
    generator = np.random.default_rng(stream(seed, "ridge").initial_seed())
    x = 2 * generator.standard_normal(POINTS)
    y = np.sin(x) + SIGMA * generator.standard_normal(POINTS)
    grid = np.linspace(min(-4, x.min()), max(4, x.max()), 401)
    phi, slope = bumps(grid)
    parts: list[dict[str, Any]] = [{"what": "data", "x": x, "value": y}]
    parts += [{"what": "truth", "x": grid, "value": np.sin(grid)}]
    for beta in betas:
        w = fim_ridge(x, y, beta)
        shared: dict[str, Any] = {"beta": beta, "x": grid}
        parts += [{"what": "fit", "value": phi @ w, **shared}]
        parts += [{"what": "information", "value": (slope @ w / SIGMA) ** 2, **shared}]
    columns = ["what", "beta", "x", "value"]
    table = pd.concat([pd.DataFrame(p).reindex(columns=columns) for p in parts], ignore_index=True)
    return table.assign(x=rounded(table.x), value=rounded(table.value))
