"""What an attack is, and the baseline: noise."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from robust_npe.attacks.balls import Ball
from robust_npe.attacks.objectives import Objective
from robust_npe.components import Component
from robust_npe.posterior import Posterior
from robust_npe.random import child

__all__ = ["Attack", "Found", "Noise", "best_of", "comparable", "frozen", "settings"]


@dataclass(frozen=True)
class Found:
    """What an attack found.

    Attributes:
        x_adv: x~ of shape `(B, Dx)`, inside of ball and domain, without graph.
        zero_gradients: For each observation, the share of gradient steps whose gradient was zero
            or not finite, shape `(B,)`; None for an attack without gradients. Where it is large,
            the attack could not see where to go, and says little about robustness.
    """

    x_adv: Tensor
    zero_gradients: Tensor | None = None


class Attack(Component, ABC):
    """Searches in a ball around each observation for one that misleads the posterior.

    Constructor arguments are kept as attributes of the same name, which is how `settings` finds
    them.
    """

    def __call__(
        self,
        posterior: Posterior,
        x: Tensor,
        theta: Tensor | None = None,
        *,
        ball: Ball,
        generator: Generator,
    ) -> Tensor:
        """Return perturbed observations x~ of shape `(B, Dx)`; arguments as for `search`."""
        return self.search(posterior, x, theta, ball, generator).x_adv

    @abstractmethod
    def search(
        self,
        posterior: Posterior,
        x: Tensor,
        theta: Tensor | None,
        ball: Ball,
        generator: Generator,
    ) -> Found:
        """Search for perturbed observations.

        Args:
            posterior: What is attacked: an estimator or any map from x to a distribution.
            x: Clean observations of shape `(B, Dx)`.
            theta: The parameters that generated x, shape `(B, D)`, where the objective needs them.
            ball: Allowed perturbations, and the box that x~ must stay in.
            generator: Source of randomness.
        """


class Noise(Attack):
    """Baseline: one uniform draw from the ball."""

    name = "noise"

    def search(
        self,
        posterior: Posterior,
        x: Tensor,
        theta: Tensor | None,
        ball: Ball,
        generator: Generator,
    ) -> Found:
        """Draw once."""
        x = x.detach()
        return Found(ball.feasible(x, x + ball.sample(x, generator)))


@torch.no_grad()
def best_of(
    objective: Objective,
    posterior: Posterior,
    x: Tensor,
    theta: Tensor | None,
    candidates: Sequence[Tensor],
    generator: Generator,
) -> Tensor:
    """Return the best of several x~ for each observation, the first of equals.

    They are judged with random numbers of their own: the ones that a candidate was found with are
    those that it fits best.

    Args:
        objective: What to compare.
        posterior: What is attacked.
        x: Clean observations of shape `(B, Dx)`.
        theta: The parameters that generated x, where the objective needs them.
        candidates: Each of shape `(B, Dx)`.
        generator: Source of randomness.
    """
    judge = objective(posterior, x, theta, child(generator))
    best, best_value = candidates[0], comparable(judge(candidates[0]))
    for candidate in candidates[1:]:
        value = comparable(judge(candidate))
        better = value > best_value
        best = torch.where(better.unsqueeze(-1), candidate, best)
        best_value = torch.where(better, value, best_value)
    return best


def comparable(value: Tensor) -> Tensor:
    """Values that are not finite count as worst: they are numerical accidents, not successes."""
    return torch.where(value.isfinite(), value, -torch.inf)


@contextmanager
def frozen(posterior: Posterior) -> Iterator[None]:
    """Exclude the network's parameters from differentiation, and restore them afterwards.

    An attack needs gradients with respect to x only: this saves their cost and guarantees that
    nothing leaks into `.grad`.
    """
    parameters = list(posterior.parameters()) if isinstance(posterior, nn.Module) else []
    trainable = [p for p in parameters if p.requires_grad]
    for p in trainable:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trainable:
            p.requires_grad_(True)


def settings(component: Attack | Objective, prefix: str = "") -> str:
    """Return the constructor arguments of an attack that differ from their defaults, as in
    `steps=20 objective.num_samples=5`; those of its objective and other parts included."""
    parts = []
    for name, parameter in inspect.signature(type(component)).parameters.items():
        value = getattr(component, name)
        if isinstance(value, Attack | Objective):
            parts.append(settings(value, f"{prefix}{name}."))
        elif value != parameter.default:
            parts.append(f"{prefix}{name}={value}")
    return " ".join(part for part in parts if part)
