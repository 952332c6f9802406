"""Priors, simulators and likelihoods of the benchmark sbibm, version 1.1.0.

Definitions: Lueckmann, Boelts, Greenberg, Gonçalves & Macke (2021), "Benchmarking
simulation-based inference", https://arxiv.org/abs/2101.04653, appendix T, and the constants of
the package where the two differ. All arithmetic is in float64.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Generator, Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, Uniform
from torch.nn.functional import logsigmoid, softplus
from typing_extensions import override

from robust_npe.tasks.distractors import Distractors
from robust_npe.tasks.noise import (
    gaussian_norm,
    normal_log_prob,
)

__all__ = [
    "SLCP",
    "BenchmarkGaussianLinear",
    "BenchmarkGaussianMixture",
    "BernoulliGLM",
    "BernoulliGLMRaw",
    "GaussianLinearUniform",
    "Model",
    "SLCPDistractors",
    "TwoMoons",
]


class Model(ABC):
    """Prior, simulator and likelihood, for theta in float64."""

    prior: Distribution
    dim_x: int
    theta_names: list[str] | None = None
    x_names: list[str] | None = None
    domain: tuple[Tensor, Tensor] | None = None
    noise_norm: float | None = None

    @abstractmethod
    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        """Simulate x `(B, Dx)` in float64 for theta `(B, D)`."""

    @abstractmethod
    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        """Return log p(x|theta) for theta `(*, D)` and x `(*, Dx)`, broadcast."""


class BenchmarkGaussianLinear(Model):
    """theta ~ N(0, 0.1 I), x ~ N(theta, 0.1 I) in ten dimensions."""

    dim_x = 10
    noise_std = math.sqrt(0.1)
    noise_norm = gaussian_norm(math.sqrt(0.1), 10)

    def __init__(self) -> None:
        self.prior = Independent(Normal(torch.zeros(10), self.noise_std * torch.ones(10)), 1)

    @override
    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        return theta + self.noise_std * _standard_normal(theta.shape, generator)

    @override
    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        return normal_log_prob(x, theta, self.noise_std)


class GaussianLinearUniform(BenchmarkGaussianLinear):
    """theta ~ U(-1, 1), x ~ N(theta, 0.1 I) in ten dimensions."""

    def __init__(self) -> None:
        self.prior = _box(1.0, 10)


class BenchmarkGaussianMixture(Model):
    """theta ~ U(-10, 10), x ~ 0.5 N(theta, I) + 0.5 N(theta, 0.01 I) in two dimensions."""

    dim_x = 2
    scales = (1.0, 0.1)
    noise_norm = gaussian_norm((1.0 + 0.1) / 2, 2)

    def __init__(self) -> None:
        self.prior = _box(10.0, 2)

    @override
    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        component = torch.randint(2, (len(theta), 1), generator=generator)
        scale = torch.tensor(self.scales, dtype=torch.float64)[component]
        return theta + scale * _standard_normal(theta.shape, generator)

    @override
    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        wide, narrow = (normal_log_prob(x, theta, scale) for scale in self.scales)
        return torch.logaddexp(wide, narrow) - math.log(2)


class TwoMoons(Model):
    """theta ~ U(-1, 1)^2; x is a point on a noisy half circle, moved by theta."""

    dim_x = 2
    centre, radius, radius_std = 0.25, 0.1, 0.01

    def __init__(self) -> None:
        self.prior = _box(1.0, 2)

    @override
    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        uniform = torch.rand(len(theta), generator=generator, dtype=torch.float64)
        angle = math.pi * (uniform - 0.5)
        radius = self.radius + self.radius_std * _standard_normal(angle.shape, generator)
        point = torch.stack((radius * angle.cos() + self.centre, radius * angle.sin()), dim=-1)
        return point + self._shift(theta)

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        """See `Model.log_likelihood`; the density in polar coordinates over the radius."""
        point = x - self._shift(theta)
        u, v = point[..., 0] - self.centre, point[..., 1]
        radius = torch.hypot(u, v)
        radial = normal_log_prob(
            radius[..., None], torch.full_like(radius, self.radius)[..., None], self.radius_std
        )
        return torch.where(u > 0, radial - math.log(math.pi) - radius.log(), -torch.inf)

    @staticmethod
    def _shift(theta: Tensor) -> Tensor:
        total, difference = theta.sum(-1), theta[..., 1] - theta[..., 0]
        return torch.stack((-total.abs(), difference), dim=-1) / math.sqrt(2)


class SLCP(Model):
    """theta ~ U(-3, 3)^5; x is four points of a Gaussian whose moments theta sets."""

    dim_x = 8

    def __init__(self) -> None:
        self.prior = _box(3.0, 5)

    @override
    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        first, cross, second = self._cholesky(theta)
        noise = _standard_normal((len(theta), 4, 2), generator)
        x = theta[:, 0, None] + first[:, None] * noise[..., 0]
        y = theta[:, 1, None] + cross[:, None] * noise[..., 0] + second[:, None] * noise[..., 1]
        return torch.stack((x, y), dim=-1).flatten(1)

    @override
    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        first, cross, second = (part[..., None] for part in self._cholesky(theta))
        points = x.unflatten(-1, (4, 2))
        u = (points[..., 0] - theta[..., 0, None]) / first
        v = (points[..., 1] - theta[..., 1, None] - cross * u) / second
        terms = -0.5 * (u**2 + v**2) - first.log() - second.log() - math.log(2 * math.pi)
        return terms.sum(-1)

    @staticmethod
    def _cholesky(theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Lower triangle of the covariance's factor; 1e-6 on its diagonal keeps it regular."""
        s1, s2, rho = theta[..., 2] ** 2, theta[..., 3] ** 2, torch.tanh(theta[..., 4])
        first = torch.sqrt(s1**2 + 1e-6)
        cross = rho * s1 * s2 / first
        return first, cross, torch.sqrt(s2**2 + 1e-6 - cross**2)


class SLCPDistractors(SLCP):
    """SLCP with 92 features that say nothing about theta, shuffled among the eight that do."""

    dim_x = 100

    def __init__(self) -> None:
        super().__init__()
        numbers = np.random.RandomState(42)
        self.noise = Distractors.random(numbers, components=20, dim=92)
        self.order = torch.from_numpy(numbers.permutation(self.dim_x))
        self.informative = self.order.argsort()[:8]

    @override
    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        x = super().simulate(theta, generator)
        noise = self.noise.sample(len(theta), generator)
        return torch.cat((x, noise), dim=1)[:, self.order]

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        """See `Model.log_likelihood`.

        The density of the distractors does not depend on theta and is left out.
        """
        return super().log_likelihood(theta, x[..., self.informative])


class BernoulliGLMRaw(Model):
    """Spikes of a generalised linear model of ten weights, in 100 time bins."""

    dim_x = 100

    def __init__(self) -> None:
        stimulus = np.random.RandomState(42).randn(100).astype(np.float32)
        design = torch.ones(100, 10, dtype=torch.float64)
        for lag in range(9):
            shifted = np.concatenate((np.zeros(lag), stimulus[: 100 - lag]))
            design[:, lag + 1] = torch.from_numpy(shifted)
        self.design = design
        self.prior = MultivariateNormal(torch.zeros(10), precision_matrix=_smooth_precision(9))
        self.domain = (torch.zeros(self.dim_x), torch.ones(self.dim_x))

    @override
    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        probability = torch.sigmoid(theta @ self.design.T)
        uniform = torch.rand(probability.shape, generator=generator, dtype=torch.float64)
        return (uniform < probability).double()

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        """See `Model.log_likelihood`; between 0 and 1 spikes it is interpolated."""
        drive = theta @ self.design.T
        return (x * logsigmoid(drive) + (1 - x) * logsigmoid(-drive)).sum(-1)


class BernoulliGLM(BernoulliGLMRaw):
    """The same spikes reduced to sufficient statistics: their number and triggered averages."""

    dim_x = 10

    def __init__(self) -> None:
        super().__init__()
        smallest = self.design.clamp(max=0).sum(0).float()
        self.domain = (smallest, self.design.clamp(min=0).sum(0).float())

    @override
    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        return super().simulate(theta, generator) @ self.design

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        """See `Model.log_likelihood`.

        The probability of one spike train with the statistics x. How many trains share them does
        not depend on theta and is left out.
        """
        return (theta * x).sum(-1) - softplus(theta @ self.design.T).sum(-1)


def _box(bound: float, dim: int) -> Independent:
    """Uniform distribution on [-bound, bound]^dim."""
    edge = bound * torch.ones(dim)
    return Independent(Uniform(-edge, edge), 1)


def _standard_normal(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _smooth_precision(dim: int) -> Tensor:
    """Prior precision of an offset and a filter that has small second differences."""
    difference = torch.eye(dim) - torch.diag(torch.ones(dim - 1), -1)
    rough = difference @ difference + torch.diag(torch.arange(dim) / dim).sqrt()
    precision = torch.zeros(dim + 1, dim + 1)
    precision[0, 0] = 0.5
    precision[1:, 1:] = rough.T @ rough
    return precision
