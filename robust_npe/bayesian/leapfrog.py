"""What trajectories of Hamiltonian Monte Carlo are made of: points, energies, step sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robust_npe.bayesian.inference import Weights

__all__ = ["DualAveraging", "Point", "kinetic"]


class Point(NamedTuple):
    """A state of C chains, its log density `(C,)`, and the gradient of that."""

    state: Weights
    value: Tensor
    slope: Weights

    @classmethod
    @torch.enable_grad()
    def at(cls, log_density: Callable[[Weights], Tensor], state: Weights) -> Point:
        """Return a state with its log density and gradient."""
        leaves = [w.detach().requires_grad_(True) for w in state]
        value = log_density(leaves)
        slope = torch.autograd.grad(value.sum(), leaves)
        return cls(list(state), value.detach(), list(slope))

    def where(self, chosen: Tensor, other: Point) -> Point:
        """Return this one for the chains that are chosen, `(C,)`, and another for the rest."""

        def merged(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(chosen.view(-1, *[1] * (new.ndim - 1)), new, old)

        state, slope = (
            [merged(n, o) for n, o in zip(new, old, strict=True)]
            for new, old in ((self.state, other.state), (self.slope, other.slope))
        )
        return Point(state, merged(self.value, other.value), slope)

    @property
    def tensors(self) -> list[Tensor]:
        """All of them."""
        return [*self.state, self.value, *self.slope]


def kinetic(momentum: Weights) -> Tensor:
    """Return the kinetic energy of each chain for unit masses, `(C,)`."""
    return 0.5 * torch.stack([p.square().flatten(1).sum(1) for p in momentum]).sum(0)


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
    changing = ("log_step", "error", "average")

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

    def state_dict(self) -> dict[str, Any]:
        """Return what changes; tensors are not copied."""
        return {"count": self.count, **{name: getattr(self, name) for name in self.changing}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.count = state["count"]
        for name in self.changing:
            getattr(self, name).copy_(state[name])
