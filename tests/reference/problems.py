"""Posteriors that are known, for tests."""

from __future__ import annotations

import math

import torch
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Uniform,
)

from robust_npe.tasks.base import Task
from robust_npe.tasks.noise import normal_log_prob


class TwoModes(Task):
    """theta ~ U(-2, 2)^2, x = |theta| + noise: modes of equal mass wherever signs differ."""

    name = "two_modes"
    dim_x = 2
    noise_std = 0.1

    def __init__(self):
        self.prior = Independent(Uniform(-2 * torch.ones(2), 2 * torch.ones(2)), 1)

    def location(self, theta):
        return torch.stack((theta[..., 0].abs(), theta[..., 1]), dim=-1)

    def simulate(self, theta, generator):
        noise = torch.randn(theta.shape, generator=generator)
        return self.location(theta) + self.noise_std * noise

    def log_likelihood(self, theta, x):
        return normal_log_prob(x, self.location(theta.double()), self.noise_std)

    def posterior(self, x):
        """Exact up to the mass beyond the edge of the prior."""
        means = torch.stack((torch.stack((-x[0], x[1])), x))
        parts = Independent(Normal(means, self.noise_std * torch.ones(2, 2)), 1)
        return MixtureSameFamily(Categorical(torch.ones(2)), parts)

    log_evidence = math.log(2 / 16)


class Mute(Task):
    """A task without likelihood."""

    name = "mute"
    dim_x = 1

    def __init__(self):
        self.prior = Independent(Normal(torch.zeros(1), torch.ones(1)), 1)

    def simulate(self, theta, generator):
        return theta


def one_mode(x, std=0.1):
    """A proposal that knows one of the modes only."""
    return MultivariateNormal(x, std**2 * torch.eye(2))
