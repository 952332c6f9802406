"""What an attack is, and the baseline: noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor, nn

from robust_npe.attacks.balls import Ball
from robust_npe.components import Component
from robust_npe.posterior import Posterior

__all__ = ["Attack", "Domain", "Noise", "frozen"]

Domain = tuple[Tensor, Tensor]
"""Smallest and largest allowed x, each of shape `(Dx,)`."""


class Attack(Component, ABC):
    """Searches in a ball around each observation for one that misleads the posterior.

    Args:
        ball: Allowed perturbations.
        domain: Box that x~ must stay in, None for no limit. Where x itself lies outside of the
            box, the box is widened to contain it.
    """

    name: str

    def __init__(self, ball: Ball, domain: Domain | None = None) -> None:
        self.ball = ball
        self.domain = domain

    @abstractmethod
    def __call__(
        self, posterior: Posterior, x: Tensor, theta: Tensor | None = None, *, generator: Generator
    ) -> Tensor:
        """Return perturbed observations.

        Args:
            posterior: What is attacked: an estimator or any map from x to a distribution.
            x: Clean observations of shape `(B, Dx)`.
            theta: The parameters that generated x, shape `(B, D)`, where the objective needs them.
            generator: Source of randomness.

        Returns:
            x~ of shape `(B, Dx)`, inside of the ball and the domain, without graph.
        """

    def feasible(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Return x~ moved into ball and domain. The domain contains x, so clipping to it can only
        shorten the perturbation and never leaves the ball."""
        x_adv = x + self.ball.project(x_adv - x)
        if self.domain is None:
            return x_adv
        low, high = self.domain
        return x_adv.clamp(torch.minimum(low, x), torch.maximum(high, x))


class Noise(Attack):
    """Baseline: one uniform draw from the ball."""

    name = "noise"

    def __call__(
        self, posterior: Posterior, x: Tensor, theta: Tensor | None = None, *, generator: Generator
    ) -> Tensor:
        """See `Attack`."""
        x = x.detach()
        return self.feasible(x, x + self.ball.sample(x, generator))


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
