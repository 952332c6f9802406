"""Linear Gaussian task with an exact Gaussian posterior: the yardstick for everything else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torch.distributions import Independent, MultivariateNormal, Normal
from typing_extensions import override

from robust_npe.checks import require, require_positive
from robust_npe.tasks.base import Task

__all__ = ["PAPER_SLOPES", "GaussianLinear"]

PAPER_SLOPES = (
    -0.2633,
    -1.9402,
    1.6822,
    -0.29684,
    -0.031292,
    -1.0250,
    0.056811,
    0.29649,
    1.2073,
    -1.7704,
)


class GaussianLinear(Task):
    """theta ~ N(0, I), x = diag(a) theta + N(0, noise_std^2 I).

    Source: Gloeckler, Deistler & Macke (2023), "Adversarial robustness of amortized Bayesian
    inference", https://arxiv.org/abs/2305.14984.

    Args:
        slopes: The diagonal a, one number per parameter.
        noise_std: Standard deviation of the observation noise, positive.
    """

    name = "gaussian_linear"

    def __init__(self, slopes: Sequence[float] = PAPER_SLOPES, noise_std: float = 0.1) -> None:
        require_positive("task.noise_std", noise_std)
        require(len(slopes) > 0, "task.slopes", slopes, "at least one number")
        self.slopes = torch.tensor(list(slopes), dtype=torch.float64)
        self.noise_std = float(noise_std)
        self.dim_x = len(slopes)
        self.prior = Independent(Normal(torch.zeros(self.dim_x), torch.ones(self.dim_x)), 1)

    @property
    def noise_norm(self) -> float:
        """Expected L2 norm of the noise: that of a chi distribution with Dx degrees of freedom."""
        half = torch.tensor(self.dim_x / 2, dtype=torch.float64)
        chi_mean = 2**0.5 * torch.exp(torch.lgamma(half + 0.5) - torch.lgamma(half))
        return self.noise_std * float(chi_mean)

    @override
    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        noise = torch.randn(theta.shape, generator=generator, dtype=torch.float64)
        return (self.slopes * theta.double() + self.noise_std * noise).float()

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        """See `Task.log_likelihood`; computed and returned in float64."""
        mean = self.slopes * theta.double()
        return Normal(mean, self.noise_std).log_prob(x.double()).sum(-1)

    def true_posterior(self, x: Tensor) -> MultivariateNormal:
        """Exact posterior: precision I + a^2 / noise_std^2, mean linear in x; dtype follows x."""
        variance = 1 / (1 + (self.slopes / self.noise_std) ** 2)
        mean = variance * self.slopes / self.noise_std**2 * x.double()
        scale = torch.diag(variance.sqrt())
        return MultivariateNormal(mean.to(x.dtype), scale_tril=scale.to(x.dtype))
