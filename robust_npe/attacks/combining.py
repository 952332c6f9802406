"""Attacks made of attacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Generator, Tensor

from robust_npe.attacks.balls import Ball
from robust_npe.attacks.base import Attack, Found, best_of, frozen
from robust_npe.attacks.objectives import Objective
from robust_npe.checks import require, require_positive_integer
from robust_npe.posterior import Posterior

__all__ = ["Restarts", "WorstCase"]


class WorstCase(Attack):
    """The best of several attacks for each observation, judged with fresh random numbers.

    The share of zero gradients is the mean over the attacks that use gradients.

    References:
        Croce & Hein (2020), "Reliable evaluation of adversarial robustness with an ensemble of
        diverse parameter-free attacks", https://arxiv.org/abs/2003.01690

    Args:
        attacks: At least one; each has its own objective.
        objective: What they are compared by.
    """

    name = "worst_case"

    def __init__(self, attacks: Sequence[Attack], objective: Objective) -> None:
        require(len(attacks) > 0, "attack.attacks", list(attacks), "a list of at least one attack")
        self.attacks = list(attacks)
        self.objective = objective

    def search(
        self,
        posterior: Posterior,
        x: Tensor,
        theta: Tensor | None,
        ball: Ball,
        generator: Generator,
    ) -> Found:
        """Run all attacks and keep the best x~ of each observation."""
        x = x.detach()
        with frozen(posterior):
            found = [a.search(posterior, x, theta, ball, generator) for a in self.attacks]
            candidates = [f.x_adv for f in found]
            blind = [f.zero_gradients for f in found if f.zero_gradients is not None]
            x_adv = best_of(self.objective, posterior, x, theta, candidates, generator)
        return Found(x_adv, torch.stack(blind).mean(0) if blind else None)


class Restarts(WorstCase):
    """The best of several runs of one attack, each with random numbers of its own.

    Args:
        attack: What is repeated; it must have an objective, which the runs are compared by.
        n: Number of runs.
    """

    name = "restarts"

    def __init__(self, attack: Attack, n: int = 5) -> None:
        require_positive_integer("attack.n", n)
        objective = getattr(attack, "objective", None)
        expected = "an attack with an objective; use worst_case for others"
        require(isinstance(objective, Objective), "attack.attack", attack.name, expected)
        super().__init__([attack] * n, cast(Objective, objective))
        self.attack = attack
        self.n = n
