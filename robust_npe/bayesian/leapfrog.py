"""Chains of Hamiltonian Monte Carlo, computed side by side."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from robust_npe.bayesian.inference import Weights

__all__ = ["ChainDraws", "DualAveraging", "run_chains"]

DIVERGENT = 1000.0  # nats of energy error
JITTER = 0.1  # of step sizes, so that no trajectory comes back to where it began


@dataclass(frozen=True)
class ChainDraws:
    """What C chains drew.

    Attributes:
        draws: For each tensor of the state `(C, n, ...)`.
        log_density: At each draw, `(C, n)`.
        acceptance: Mean probability of acceptance after warm-up.
        divergent: Share of trajectories after warm-up whose energy error was above 1000 nats.
        step_size: Of each chain after warm-up, `(C,)`.
    """

    draws: Weights
    log_density: Tensor
    acceptance: float
    divergent: float
    step_size: Tensor


class DualAveraging:
    """Step sizes that lead to a given acceptance.

    References:
        Hoffman & Gelman (2014), "The no-U-turn sampler", https://arxiv.org/abs/1111.4246,
        section 3.2; constants as there

    Args:
        step_size: To start from, `(C,)`.
        target: Acceptance that is aimed at.
    """

    gamma, offset, kappa = 0.05, 10.0, 0.75

    def __init__(self, step_size: Tensor, target: float) -> None:
        self.log_step = step_size.log()
        self.centre = self.log_step + math.log(10)
        self.target, self.count = target, 0
        self.error = torch.zeros_like(step_size)
        self.average = torch.zeros_like(step_size)

    def update(self, acceptance: Tensor) -> None:
        """Take in the acceptance probability of each chain `(C,)`."""
        self.count += 1
        weight = 1 / (self.count + self.offset)
        self.error += weight * (self.target - acceptance - self.error)
        self.log_step = self.centre - self.count**0.5 / self.gamma * self.error
        share = self.count**-self.kappa
        self.average += share * (self.log_step - self.average)


def run_chains(
    log_density: Callable[[Weights], Tensor],
    start: Weights,
    warm_up: int,
    draws: int,
    thinning: int,
    leapfrog_steps: int,
    step_size: float,
    target: float,
    generator: Generator,
) -> ChainDraws:
    """Sample from a density with unit masses.

    Args:
        log_density: Maps a state, tensors `(C, ...)`, to log densities up to a constant, `(C,)`.
        start: The state of C chains.
        warm_up: Trajectories in which step sizes adapt by `DualAveraging`.
        draws: Draws to keep of each chain.
        thinning: Trajectories per draw.
        leapfrog_steps: Steps of each trajectory.
        step_size: To start from.
        target: Acceptance that step sizes aim at.
        generator: Source of randomness.
    """
    point = _Point([w.clone() for w in start], *_value_and_slope(log_density, start))
    adaptation = DualAveraging(torch.full_like(point.value, step_size), target)
    kept: list[_Point] = []
    accepted: list[Tensor] = []
    divergent: list[Tensor] = []
    for t in range(warm_up + draws * thinning):
        warm = t < warm_up
        size = (adaptation.log_step if warm else adaptation.average).exp()
        jitter = 2 * torch.rand(size.shape, generator=generator).to(size) - 1
        size = size * (1 + JITTER * jitter)
        point, probability, broken = _moved(log_density, point, size, leapfrog_steps, generator)
        if warm:
            adaptation.update(probability)
            continue
        accepted.append(probability)
        divergent.append(broken)
        if (t - warm_up + 1) % thinning == 0:
            kept.append(point)
    return ChainDraws(
        draws=[torch.stack(p, 1) for p in zip(*(k.state for k in kept), strict=True)],
        log_density=torch.stack([k.value for k in kept], 1),
        acceptance=float(torch.stack(accepted).mean()),
        divergent=float(torch.stack(divergent).double().mean()),
        step_size=adaptation.average.exp(),
    )


class _Point(NamedTuple):
    """A state of C chains, its log density `(C,)`, and the gradient of that."""

    state: Weights
    value: Tensor
    slope: Weights


def _moved(
    log_density: Callable[[Weights], Tensor],
    point: _Point,
    size: Tensor,
    steps: int,
    generator: Generator,
) -> tuple[_Point, Tensor, Tensor]:
    """Return where each chain is after a trajectory, the probability that it was accepted, and
    whether it diverged, both `(C,)`."""
    momentum = [torch.randn(w.shape, generator=generator).to(w) for w in point.state]
    new, kinetic = _leapfrog(log_density, point, momentum, size, steps)
    error = new.value - kinetic - (point.value - _kinetic(momentum))
    broken = ~(error.abs() < DIVERGENT)
    probability = torch.where(broken, 0.0, error.clamp(max=0).exp())
    taken = torch.rand(size.shape, generator=generator).to(size) < probability
    state, slope = (
        [_where(taken, n, o) for n, o in zip(fresh, old, strict=True)]
        for fresh, old in ((new.state, point.state), (new.slope, point.slope))
    )
    return _Point(state, torch.where(taken, new.value, point.value), slope), probability, broken


def _leapfrog(
    log_density: Callable[[Weights], Tensor],
    point: _Point,
    momentum: Weights,
    size: Tensor,
    steps: int,
) -> tuple[_Point, Tensor]:
    """Return the end of a trajectory, and the kinetic energy there."""
    state, value, slope = point
    sizes = [size.view(-1, *[1] * (w.ndim - 1)) for w in state]
    momentum = [p + 0.5 * e * g for p, e, g in zip(momentum, sizes, slope, strict=True)]
    for i in range(steps):
        state = [w + e * p for w, e, p in zip(state, sizes, momentum, strict=True)]
        value, slope = _value_and_slope(log_density, state)
        half = 0.5 if i == steps - 1 else 1.0
        momentum = [p + half * e * g for p, e, g in zip(momentum, sizes, slope, strict=True)]
    return _Point(state, value, slope), _kinetic(momentum)


@torch.enable_grad()
def _value_and_slope(
    log_density: Callable[[Weights], Tensor], state: Weights
) -> tuple[Tensor, Weights]:
    leaves = [w.detach().requires_grad_(True) for w in state]
    value = log_density(leaves)
    return value.detach(), list(torch.autograd.grad(value.sum(), leaves))


def _kinetic(momentum: Weights) -> Tensor:
    return 0.5 * torch.stack([p.square().flatten(1).sum(1) for p in momentum]).sum(0)


def _where(chosen: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(chosen.view(-1, *[1] * (new.ndim - 1)), new, old)
