"""The two tasks of sbibm that solve differential equations, without Julia."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.distributions import Independent, LogNormal
from typing_extensions import override

from robust_npe.tasks.lotka_volterra import lotka_volterra_system
from robust_npe.tasks.noise import log_normal, lognormal_log_prob
from robust_npe.tasks.ode import solve_rk4
from robust_npe.tasks.sbibm_models import Model
from robust_npe.tasks.sir import sir_system

__all__ = ["BenchmarkLotkaVolterra", "BenchmarkSIR"]


class BenchmarkSIR(Model):
    """Epidemic in a million people: 1000 of them tested every 17th day."""

    dim_x = 10
    population, days_between, tests = 1e6, 17, 1000
    steps_per_day = 8  # error of the number of positive tests below 0.01

    def __init__(self) -> None:
        self.prior = _log_normal_prior([math.log(0.4), math.log(0.125)], [0.5, 0.2])
        self.theta_names = ["beta", "gamma"]
        self.x_names = [f"infected({self.days_between * i})" for i in range(self.dim_x)]
        self.domain = (torch.zeros(self.dim_x), torch.full((self.dim_x,), float(self.tests)))

    @override
    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        fraction = self._fraction(theta)
        failed = ~torch.isfinite(fraction)
        count = torch.full_like(fraction, self.tests)
        # binomial draws refuse a NaN probability, so it goes around them
        draws = torch.binomial(count, fraction.masked_fill(failed, 0.0), generator=generator)
        return draws.masked_fill(failed, torch.nan)

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        """See `Model.log_likelihood`; between whole numbers the gamma function interpolates."""
        fraction = self._fraction(theta)
        inside = ((x >= 0) & (x <= self.tests)).all(-1) & torch.isfinite(fraction).all(-1)
        hits = x.clamp(0, self.tests)
        misses = self.tests - hits
        ways = math.lgamma(self.tests + 1) - torch.lgamma(hits + 1) - torch.lgamma(misses + 1)
        terms = ways + torch.xlogy(hits, fraction) + torch.special.xlog1py(misses, -fraction)
        return torch.where(inside, terms.sum(-1), -torch.inf)

    def _fraction(self, theta: Tensor) -> Tensor:
        initial = torch.tensor([self.population - 1, 1.0], dtype=torch.float64)
        duration = float(self.days_between * (self.dim_x - 1))
        steps = self.days_between * self.steps_per_day
        system = sir_system(self.population)
        solution = solve_rk4(system, initial, theta, duration, self.dim_x, steps)
        return (solution[..., 1, :] / self.population).clamp(0, 1)


class BenchmarkLotkaVolterra(Model):
    """Prey and predator every 2.1 days, with log-normal noise of scale 0.1."""

    dim_x = 20
    days_between, noise_std = 2.1, 0.1
    steps = 420  # between observations: error of log x below 0.001 in 20 000 draws of the prior

    def __init__(self) -> None:
        self.prior = _log_normal_prior([-0.125, -3.0, -0.125, -3.0], [0.5, 0.5, 0.5, 0.5])
        self.theta_names = ["alpha", "beta", "gamma", "delta"]
        times = [self.days_between * i for i in range(10)]
        self.x_names = [f"{who}({time:.1f})" for who in ("prey", "predator") for time in times]
        self.domain = (torch.zeros(self.dim_x), torch.full((self.dim_x,), torch.inf))

    @override
    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        return log_normal(self._location(theta), self.noise_std, generator)

    @override
    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        return lognormal_log_prob(x, self._location(theta), self.noise_std)

    def _location(self, theta: Tensor) -> Tensor:
        initial = torch.tensor([30.0, 1.0], dtype=torch.float64)
        duration = 9 * self.days_between
        solution = solve_rk4(lotka_volterra_system, initial, theta, duration, 10, self.steps)
        location = solution.clamp(1e-10, 1e4).log()
        # the clamp must not turn an overflow into a number
        return torch.where(solution.isfinite(), location, torch.nan).flatten(-2)


def _log_normal_prior(location: list[float], scale: list[float]) -> Independent:
    return Independent(LogNormal(torch.tensor(location), torch.tensor(scale)), 1)
