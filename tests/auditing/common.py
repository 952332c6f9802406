"""A linear-Gaussian problem whose posterior is known; no tests here."""

from __future__ import annotations

import torch
from torch.distributions import Independent, MultivariateNormal, Normal

from robust_npe.attacks import PGD, KLForward
from robust_npe.auditing import AuditSettings
from robust_npe.random import draws_from, stream
from robust_npe.tasks import FunctionTask

NOISE = 0.2
DESIGN = torch.tensor([[1.0, 0.5, -0.3, 0.8, 0.0, 1.2], [0.0, 1.0, 0.7, -0.6, 1.1, 0.4]])
COVARIANCE = torch.linalg.inv(torch.eye(2) + DESIGN @ DESIGN.mT / NOISE**2)
PRIOR = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
QUICK = AuditSettings(
    num_samples=100,
    num_scores=64,
    num_simulations=600,
    num_held_out=400,
    num_predictive=40,
    num_minimal=2,
    num_pictured=1,
    flow=False,
)
WEAK = PGD(KLForward(), steps=8)


def simulate(theta):
    return theta @ DESIGN + NOISE * torch.randn(len(theta), DESIGN.shape[1])


def exact(x):
    """The posterior of two parameters given six features."""
    return MultivariateNormal(x @ DESIGN.mT / NOISE**2 @ COVARIANCE, COVARIANCE)


def task():
    return FunctionTask(simulate, PRIOR, theta_names=["mass", "rate"])


def pairs(num, seed=0):
    with draws_from(stream(seed, "pairs")):
        theta = PRIOR.sample((num,))
        return theta, simulate(theta)
