"""SIR epidemic: the number of infected people over time, with two unknown rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor
from torch.distributions import Independent, Normal
from typing_extensions import override

from robust_npe.checks import require, require_positive, require_positive_integer
from robust_npe.tasks.base import Task
from robust_npe.tasks.noise import log_normal, lognormal_log_prob
from robust_npe.tasks.ode import Derivative, System, solve_rk4
from robust_npe.tasks.plots import draw_trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SIR", "sir_system"]


def sir_system(population: float) -> System:
    """Return S' = -beta S I / N, I' = beta S I / N - gamma I for rates beta, gamma `(2, B)`."""

    def system(rates: Tensor) -> Derivative:
        minus_beta, minus_gamma = -rates[0] / population, -rates[1]

        def derivative(state: Tensor, out: Tensor) -> Callable[[], None]:
            (susceptible, infected), (first, second) = state, out

            def write() -> None:
                torch.mul(minus_beta, susceptible, out=first)
                torch.sub(minus_gamma, first, out=second)
                out.mul_(infected)

            return write

        return derivative

    return system


class SIR(Task):
    """SIR epidemic with contact and recovery rate, and 50 noisy counts of infected people.

    theta ~ N(0, 2^2 I); (beta, gamma) = sigmoid(theta); S' = -beta S I / N,
    I' = beta S I / N - gamma I; N = S(0) = 5, I(0) = 0.25; 50 points on [0, 50];
    x ~ LogNormal(log(I + 1e-4), 0.2).

    Source: Gloeckler, Deistler & Macke (2023), "Adversarial robustness of amortized Bayesian
    inference", https://arxiv.org/abs/2305.14984. It is not sbibm's task of the same name.

    Args:
        prior_std: Standard deviation of each parameter's Gaussian prior, positive.
        population: N, also the number of susceptible people at time 0, positive.
        initial_infected: Infected people at time 0, positive.
        duration: Time of the last observation, positive.
        num_points: Number of observation times including 0, at least 2.
        noise_std: Standard deviation of the noise on log x, positive.
        offset: Added to the number of infected people before the logarithm, positive.
        substeps: Solver steps between two observations; 8 gives an error of about 1e-6.
    """

    name = "sir"

    def __init__(
        self,
        prior_std: float = 2.0,
        population: float = 5.0,
        initial_infected: float = 0.25,
        duration: float = 50.0,
        num_points: int = 50,
        noise_std: float = 0.2,
        offset: float = 1e-4,
        substeps: int = 8,
    ) -> None:
        require_positive("task.prior_std", prior_std)
        require_positive("task.population", population)
        require_positive("task.initial_infected", initial_infected)
        require_positive("task.duration", duration)
        require(num_points >= 2, "task.num_points", num_points, "at least 2")
        require_positive("task.noise_std", noise_std)
        require_positive("task.offset", offset)
        require_positive_integer("task.substeps", substeps)
        self.population = float(population)
        self.initial = torch.tensor([population, initial_infected], dtype=torch.float64)
        self.times = torch.linspace(0, duration, num_points, dtype=torch.float64)
        self.noise_std = float(noise_std)
        self.offset = float(offset)
        self.substeps = substeps
        self.dim_x = num_points
        self.prior = Independent(Normal(torch.zeros(2), prior_std * torch.ones(2)), 1)

    @property
    def theta_names(self) -> list[str]:
        """Names of the rates that the parameters stand for."""
        return ["beta", "gamma"]

    @property
    def x_names(self) -> list[str]:
        """Time of each feature."""
        return [f"infected({time:.3g})" for time in self.times]

    @property
    def domain(self) -> tuple[Tensor, Tensor]:
        """A number of people is never negative."""
        return torch.zeros(self.dim_x), torch.full((self.dim_x,), torch.inf)

    def solution(self, theta: Tensor) -> Tensor:
        """Return the infected people for `theta (*, 2)`: float64, shape `(*, Dx)`, no noise."""
        rates = torch.sigmoid(theta.double())
        system = sir_system(self.population)
        duration, num_points = float(self.times[-1]), len(self.times)
        return solve_rk4(system, self.initial, rates, duration, num_points, self.substeps)[
            ..., 1, :
        ]

    @override
    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        location = torch.log(self.solution(theta) + self.offset)
        return log_normal(location, self.noise_std, generator).float()

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        """See `Task.log_likelihood`; float64, differentiable in x but not in theta."""
        location = torch.log(self.solution(theta) + self.offset)
        return lognormal_log_prob(x, location, self.noise_std)

    def plot(self, axes: Axes, x: Tensor, **style: Any) -> None:
        """Draw the infection curve x `(Dx,)`, or predictive bands of samples `(S, Dx)`."""
        draw_trace(axes, self.times, x, **style)
        axes.set_xlabel("time")
        axes.set_ylabel("infected")
