"""Objectives of posteriors that are random: smoothed ones, or such as inject noise."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from typing_extensions import override

from robust_npe.attacks.objectives import Climb, Objective, Sampled, with_samples
from robust_npe.checks import require_positive_integer
from robust_npe.posterior import Posterior
from robust_npe.random import child, draws_from, replay

__all__ = ["Expectation"]


class Expectation(Objective):
    """Expectation over the randomness of a posterior that gives another q in every call: the mean
    of an objective over several calls at x~, each compared with a call at x of its own.

    Without it an attack follows the gradient of a single draw, which noise hides. Scores replay the
    same draws, steps take fresh ones. The posterior draws from torch's own stream, which is seeded
    for it.

    References:
        Athalye, Carlini & Wagner (2018), "Obfuscated gradients give a false sense of security",
        https://arxiv.org/abs/1802.00420

    Args:
        objective: What to average.
        num_evaluations: Calls of the posterior in each step and score.
    """

    name = "expectation"

    def __init__(self, objective: Objective, num_evaluations: int = 8) -> None:
        require_positive_integer("objective.num_evaluations", num_evaluations)
        self.objective = objective
        self.num_evaluations = num_evaluations

    @property
    def rowwise(self) -> bool:  # type: ignore[override]
        """See `Objective`."""
        return self.objective.rowwise

    @property
    def needs_theta(self) -> bool:  # type: ignore[override]
        """See `Component`."""
        return self.objective.needs_theta

    @override
    def check(self, dim_theta: int) -> None:
        self.objective.check(dim_theta)

    @override
    def check_posterior(self, posterior: Posterior, x: Tensor) -> None:
        self.objective.check_posterior(posterior, x)

    @override
    def __call__(
        self, posterior: Posterior, x: Tensor, theta: Tensor | None, generator: Generator
    ) -> Climb:
        binding, scoring, stepping = (child(generator) for _ in range(3))
        with draws_from(binding):
            climbs = [
                self.objective(posterior, x, theta, child(generator))
                for _ in range(self.num_evaluations)
            ]

        def replayed(parts: list[Climb]) -> Climb:
            return lambda x_adv: _mean(parts, x_adv, replay(scoring))

        steps = [c.step if isinstance(c, Sampled) else c for c in climbs]
        return Sampled(
            score=replayed(climbs),
            step=lambda x_adv: _mean(steps, x_adv, stepping),
            fixed=lambda num_samples: replayed([with_samples(c, num_samples) for c in climbs]),
        )


def _mean(climbs: list[Climb], x_adv: Tensor, noise: Generator) -> Tensor:
    """Return the mean of the climbs' values, the posterior's draws from `noise`."""
    with draws_from(noise):
        return torch.stack([climb(x_adv) for climb in climbs]).mean(0)
