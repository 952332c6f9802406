"""The toy's densities along x, and how sensitive they are there."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from robust_npe.commands.experiment import Experiment
from robust_npe.posterior import Posterior
from robust_npe.recipes.examples import rounded
from robust_npe.tasks.toy import HIGH, LOW, Toy

__all__ = ["density_and_information", "toy_table"]

RANGE = (-9.0, 9.0)  # of theta
SHOWN, FINE = 101, 1201  # points of theta in the table, and for integrals over theta


def toy_table(experiments: Sequence[Experiment], num_x: int = 121) -> pd.DataFrame:
    """Return q(theta|x) and I_x on a grid of x, of trained estimators and of the truth.

    Columns are the settings of a run (`defense` is `truth` for the true posterior), `what`
    (density or information), `x`, `theta` (empty for the information) and `value`.

    Args:
        experiments: Runs of the toy.
        num_x: Points between the ends of x, -5 and 15.
    """
    x = torch.linspace(LOW, HIGH, num_x)[:, None]
    parts = [_rows(Toy().true_posterior, x).assign(defense="truth")]
    for experiment in experiments:
        settings = {
            "estimator": experiment.trained().name,
            "defense": experiment.defense.name,
            "beta": experiment.defense.beta,
            "defense_epsilon": experiment.defense.epsilon,
            "num_simulations": experiment.config["num_simulations"],
            "seed": experiment.seeds.training,
            "diverged": int(experiment.trained().diverged),
        }
        parts.append(_rows(experiment.trained().posterior, x).assign(**settings))
    return pd.concat(parts, ignore_index=True)


def _rows(posterior: Posterior, x: Tensor) -> pd.DataFrame:
    theta = torch.linspace(*RANGE, FINE)
    density, information = density_and_information(posterior, x, theta)
    every = (FINE - 1) // (SHOWN - 1)
    grid = pd.DataFrame(density[:, ::every].numpy(), columns=theta[::every].tolist())
    grid = grid.assign(x=x[:, 0].numpy()).melt("x", var_name="theta")
    along = pd.DataFrame({"x": x[:, 0].numpy(), "value": information.numpy()})
    table = pd.concat([grid.assign(what="density"), along.assign(what="information")])
    table["value"] = rounded(table.value.where(table.value.abs() > 1e-3, 0.0))
    return table.assign(x=rounded(table.x), theta=rounded(table.theta.astype(float)))


def density_and_information(
    posterior: Posterior, x: Tensor, theta: Tensor
) -> tuple[Tensor, Tensor]:
    """Return q(theta|x) `(N, T)` and I_x = E_q[(d/dx log q(theta|x))^2] `(N,)`.

    The expectation is an integral over the grid of theta, so it has no Monte-Carlo error.

    Args:
        posterior: Of one parameter given one feature.
        x: Observations, shape `(N, 1)`.
        theta: Equally spaced parameters that hold nearly all of the mass, shape `(T,)`.
    """
    pairs = x.repeat_interleave(len(theta), 0).requires_grad_(True)
    with torch.enable_grad():
        log_q = posterior(pairs).log_prob(theta.repeat(len(x))[:, None])
        (score,) = torch.autograd.grad(log_q.sum(), pairs)
    density = log_q.detach().exp().reshape(len(x), -1)
    return density, torch.trapezoid(density * score.reshape(len(x), -1).square(), theta)
