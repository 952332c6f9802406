"""What a user's own file looks like: a prior, a simulator and what else is known. No tests here."""

import numpy as np
import torch
from torch.distributions import Independent, Normal, Uniform

noise_std = 0.1
theta_names = ["level", "slope"]
prior = Independent(Uniform(-torch.ones(2), torch.ones(2)), 1)


def make_prior():
    return prior


def mean(theta):
    return torch.stack([theta.sum(-1), theta[..., 0] - theta[..., 1], theta[..., 1]], -1)


def simulate(theta):
    return mean(theta) + noise_std * torch.randn(len(theta), 3)


def log_likelihood(theta, x):
    return Normal(mean(theta), noise_std).log_prob(x).sum(-1)


def series(theta):
    """One theta (2,), in numpy: 12 times, 2 channels."""
    times = np.linspace(0, 1, 12)
    clean = np.stack([theta[0] + theta[1] * times, theta[0] * np.cos(6 * times)], 1)
    return clean + 0.1 * np.random.normal(size=clean.shape)
