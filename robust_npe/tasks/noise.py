"""Observation noise that several tasks share: sizes and log-densities."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["gaussian_norm", "log_normal", "lognormal_log_prob", "normal_log_prob"]


def gaussian_norm(std: float, dim: int) -> float:
    """Expected L2 norm of Gaussian noise N(0, std^2 I) in `dim` dimensions (a chi mean)."""
    return std * math.sqrt(2) * math.exp(math.lgamma((dim + 1) / 2) - math.lgamma(dim / 2))


def log_normal(location: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """Draw exp(N(location, scale^2)), of the shape of `location`, in float64."""
    noise = torch.randn(location.shape, generator=generator, dtype=torch.float64)
    return torch.exp(location + scale * noise)


def normal_log_prob(x: Tensor, mean: Tensor, std: float) -> Tensor:
    """Log-density of independent Gaussians summed over the last dimension.

    Where the mean is not finite the simulation failed. Failed simulations are never accepted as
    data, so the likelihood there is zero: -inf.
    """
    residual = (x.double() - mean) / std
    constant = math.log(std) + 0.5 * math.log(2 * math.pi)
    total = (-0.5 * residual**2 - constant).sum(-1)
    failed = ~torch.isfinite(mean).all(-1)
    return torch.where(failed, -torch.inf, total)


def lognormal_log_prob(x: Tensor, location: Tensor, scale: float) -> Tensor:
    """Log-density of exp(N(location, scale^2)) summed over the last dimension; -inf for x <= 0."""
    positive = (x > 0).all(-1)
    log_x = torch.log(torch.where(x > 0, x, 1).double())
    total = normal_log_prob(log_x, location, scale) - log_x.sum(-1)
    return torch.where(positive, total, -torch.inf)
