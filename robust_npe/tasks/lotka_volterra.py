"""Lotka-Volterra: prey and predator over time, with four unknown rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor
from torch.distributions import Independent, Normal
from typing_extensions import override

from robust_npe.checks import (
    require,
    require_not_negative,
    require_positive,
    require_positive_integer,
)
from robust_npe.tasks.base import Task
from robust_npe.tasks.noise import gaussian_norm, normal_log_prob
from robust_npe.tasks.ode import Derivative, solve_rk4
from robust_npe.tasks.plots import draw_trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["LotkaVolterra", "lotka_volterra_system"]


def lotka_volterra_system(rates: Tensor) -> Derivative:
    """Return x' = alpha x - beta x y, y' = delta x y - gamma y for rates `(4, B)`.

    The rows of `rates` are alpha, beta, gamma, delta.
    """
    alpha, minus_beta, minus_gamma, delta = rates[0], -rates[1], -rates[2], rates[3]

    def derivative(state: Tensor, out: Tensor) -> Callable[[], None]:
        (prey, predators), (first, second) = state, out

        def write() -> None:
            torch.addcmul(alpha, minus_beta, predators, out=first)
            torch.addcmul(minus_gamma, delta, prey, out=second)
            out.mul_(state)

        return write

    return derivative


class LotkaVolterra(Task):
    """Lotka-Volterra with four rates and 2 x 50 noisy population sizes.

    theta ~ N(0, 0.5^2 I); rates (alpha, beta, gamma, delta) = exp(sigmoid(theta));
    x' = alpha x - beta x y, y' = delta x y - gamma y; 50 points on [0, 20];
    noise N(0, 0.05^2). The observation is the prey at all times, then the predator.

    Source: Gloeckler, Deistler & Macke (2023), "Adversarial robustness of amortized Bayesian
    inference", https://arxiv.org/abs/2305.14984. It is not sbibm's task of the same name.

    Args:
        prior_std: Standard deviation of each parameter's Gaussian prior, positive.
        initial_prey: Prey at time 0, not negative.
        initial_predator: Predator at time 0, not negative.
        duration: Time of the last observation, positive.
        num_points: Number of observation times including 0, at least 2.
        noise_std: Standard deviation of the observation noise, positive.
        substeps: Solver steps between two observations; 16 gives an error of about 1e-6.
    """

    name = "lotka_volterra"

    def __init__(
        self,
        prior_std: float = 0.5,
        initial_prey: float = 1.0,
        initial_predator: float = 1.0,
        duration: float = 20.0,
        num_points: int = 50,
        noise_std: float = 0.05,
        substeps: int = 16,
    ) -> None:
        require_positive("task.prior_std", prior_std)
        require_not_negative("task.initial_prey", initial_prey)
        require_not_negative("task.initial_predator", initial_predator)
        require_positive("task.duration", duration)
        require(num_points >= 2, "task.num_points", num_points, "at least 2")
        require_positive("task.noise_std", noise_std)
        require_positive_integer("task.substeps", substeps)
        self.initial = torch.tensor([initial_prey, initial_predator], dtype=torch.float64)
        self.times = torch.linspace(0, duration, num_points, dtype=torch.float64)
        self.noise_std = float(noise_std)
        self.substeps = substeps
        self.dim_x = 2 * num_points
        self.prior = Independent(Normal(torch.zeros(4), prior_std * torch.ones(4)), 1)

    @property
    def theta_names(self) -> list[str]:
        """Names of the rates that the parameters stand for."""
        return ["alpha", "beta", "gamma", "delta"]

    @property
    def x_names(self) -> list[str]:
        """Population and time of each feature."""
        return [f"{who}({time:.3g})" for who in ("prey", "predator") for time in self.times]

    @property
    def noise_norm(self) -> float:
        """Expected L2 norm of the observation noise."""
        return gaussian_norm(self.noise_std, self.dim_x)

    def solution(self, theta: Tensor) -> Tensor:
        """Return the noise-free populations for `theta (*, 4)`: float64, shape `(*, Dx)`."""
        rates = torch.exp(torch.sigmoid(theta.double()))
        duration, num_points = float(self.times[-1]), len(self.times)
        return solve_rk4(
            lotka_volterra_system, self.initial, rates, duration, num_points, self.substeps
        ).flatten(-2)

    @override
    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        mean = self.solution(theta)
        noise = torch.randn(mean.shape, generator=generator, dtype=torch.float64)
        return mean.add_(noise, alpha=self.noise_std).float()

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        """See `Task.log_likelihood`; float64, differentiable in x but not in theta."""
        return normal_log_prob(x, self.solution(theta), self.noise_std)

    def plot(self, axes: Axes, x: Tensor, **style: Any) -> None:
        """Draw the two populations of x `(Dx,)`, or predictive bands of samples `(S, Dx)`."""
        prey, predator = torch.as_tensor(x).chunk(2, dim=-1)
        draw_trace(axes, self.times, prey, **{"label": "prey"} | style)
        draw_trace(axes, self.times, predator, **{"label": "predator", "ls": "--"} | style)
        axes.set_xlabel("time")
        axes.set_ylabel("population")
