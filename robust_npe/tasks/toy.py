"""One-dimensional toy with a known bimodal posterior whose sensitivity varies along x."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
    constraints,
)
from typing_extensions import override

from robust_npe.tasks.base import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Toy"]

LOW, HIGH = -5.0, 15.0
WEIGHTS = (0.65, 0.35)
NODES, BLOCK = 1001, 2048


class Toy(Task):
    """x ~ U(-5, 15), theta | x ~ 0.65 N(f1(x), 1) + 0.35 N(f2(x), 1).

    f1(x) = -5 exp(-0.1 (x - 2)^2) - 0.1 x and f2(x) = 5 exp(-0.1 (x - 5)^2) + 0.1 x. The problem
    is stated backwards, as a posterior. The prior that belongs to it is the marginal of theta,
    and the simulator draws x from p(x|theta), which is p(theta|x) up to a constant; both are
    integrals over x, taken on a grid of 1001 points. So prior and simulator give the joint
    distribution above, and `true_posterior` is exact.

    Source: Gloeckler, Deistler & Macke (2023), "Adversarial robustness of amortized Bayesian
    inference", https://arxiv.org/abs/2305.14984, figure 2.
    """

    name = "toy"
    dim_x = 1

    def __init__(self) -> None:
        self.prior = _Marginal()

    @property
    def theta_names(self) -> list[str]:
        """The parameter."""
        return ["theta"]

    @property
    def x_names(self) -> list[str]:
        """The observation."""
        return ["x"]

    @property
    def domain(self) -> tuple[Tensor, Tensor]:
        """x is uniform between -5 and 15."""
        return torch.tensor([LOW]), torch.tensor([HIGH])

    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        """See `Task.simulate`; inverts the distribution function of x given theta."""
        x = torch.empty(len(theta), 1)
        grid = torch.linspace(LOW, HIGH, NODES, dtype=torch.float64)
        for rows, out in zip(theta.split(BLOCK), x.split(BLOCK), strict=True):
            density = _density(rows.double()[:, None], grid[:, None])
            mass = torch.cumulative_trapezoid(density, dim=1)
            mass = torch.cat((torch.zeros_like(mass[:, :1]), mass), dim=1)
            goal = torch.rand(len(rows), 1, generator=generator, dtype=torch.float64)
            goal = goal * mass[:, -1:]
            right = torch.searchsorted(mass, goal).clamp(1, NODES - 1)
            below, above = mass.gather(1, right - 1), mass.gather(1, right)
            part = (goal - below) / (above - below)
            out.copy_(grid[right - 1] + part * (grid[1] - grid[0]))
        return x

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        """See `Task.log_likelihood`; Bayes' rule read backwards."""
        inside = ((x >= LOW) & (x <= HIGH)).all(-1)
        joint = _density(theta.double(), x.double()).log() - math.log(HIGH - LOW)
        marginal = self.prior.log_prob(theta.double())
        return torch.where(inside, joint - marginal, -torch.inf)

    @override
    def true_posterior(self, x: Tensor) -> MixtureSameFamily:
        return _posterior(x)

    def plot(self, axes: Axes, x: Tensor, **style: Any) -> None:
        """Draw the density of theta at x."""
        theta = torch.linspace(-9, 9, 500)
        density = _density(theta[:, None], torch.as_tensor(x).detach().cpu().reshape(1, 1))
        axes.plot(theta.numpy(), density.numpy(), **style)
        axes.set_xlabel("theta")
        axes.set_ylabel("p(theta | x)")


class _Marginal(Distribution):
    """Marginal of theta: the integral of p(theta|x) over x; event shape `(1,)`."""

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - as in torch

    def __init__(self) -> None:
        super().__init__(event_shape=torch.Size([1]), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, 1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        x = LOW + (HIGH - LOW) * torch.rand(*sample_shape, 1)
        return _posterior(x).sample()

    def log_prob(self, value: Tensor) -> Tensor:
        grid = torch.linspace(LOW, HIGH, NODES, dtype=torch.float64)
        flat = value.double().reshape(-1, 1, 1)
        blocks = [
            torch.trapezoid(_density(rows, grid[:, None]), grid) for rows in flat.split(BLOCK)
        ]
        density = torch.cat(blocks) / (HIGH - LOW) if blocks else flat[:, 0, 0]
        return density.log().to(value.dtype).reshape(value.shape[:-1])


def _posterior(x: Tensor) -> MixtureSameFamily:
    """p(theta|x) for x `(*, 1)`: batch shape `(*,)`, event shape `(1,)`."""
    means = _means(x)
    parts = Independent(Normal(means[..., None], torch.ones_like(means[..., None])), 1)
    weights = torch.tensor(WEIGHTS, dtype=x.dtype).expand(means.shape)
    return MixtureSameFamily(Categorical(weights), parts)


def _means(x: Tensor) -> Tensor:
    """Means of the two components, `(*, 2)`, for x `(*, 1)`."""
    first = -5 * torch.exp(-0.1 * (x - 2) ** 2) - 0.1 * x
    second = 5 * torch.exp(-0.1 * (x - 5) ** 2) + 0.1 * x
    return torch.cat((first, second), dim=-1)


def _density(theta: Tensor, x: Tensor) -> Tensor:
    """p(theta|x) for theta and x `(*, 1)`, broadcast."""
    squares = (theta - _means(x)) ** 2
    weights = torch.tensor(WEIGHTS, dtype=squares.dtype)
    return (weights * torch.exp(-0.5 * squares)).sum(-1) / math.sqrt(2 * math.pi)
