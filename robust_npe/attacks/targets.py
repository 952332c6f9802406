"""Objectives of an adversary who wants q(.|x~) to say something in particular."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from typing_extensions import override

from robust_npe.attacks.objectives import (
    Climb,
    KLForward,
    NegativeLogLikelihood,
    Objective,
    Sampled,
)
from robust_npe.checks import require
from robust_npe.posterior import Posterior

__all__ = ["TargetPosterior", "TargetTheta"]


class TargetPosterior(Objective):
    """-KL(q(.|x_target) || q(.|x~)): q is to be the posterior of another observation, which is the
    next one of those that are attacked together.

    Args:
        shift: How far down the batch the target is; the last ones have the first ones as targets.
        num_samples: Samples of q(.|x_target) in each step, as for `KLForward`.
    """

    name = "target_posterior"
    rowwise = False

    def __init__(self, shift: int = 1, num_samples: int = 2) -> None:
        require(shift != 0, "objective.shift", shift, "an integer other than 0")
        self.shift = shift
        self.num_samples = num_samples
        self._divergence = KLForward(num_samples)

    @override
    def __call__(
        self, posterior: Posterior, x: Tensor, theta: Tensor | None, generator: Generator
    ) -> Climb:
        others = f"no multiple of the number of observations attacked together, {len(x)}"
        require(self.shift % len(x) != 0, "objective.shift", self.shift, others)
        return _negated(self._divergence(posterior, x.roll(-self.shift, 0), theta, generator))


class TargetTheta(Objective):
    """log q(theta*|x~): q is to have its mass at given parameters. The opposite, away from those
    that generated x, is `NegativeLogLikelihood`.

    Args:
        theta: theta*, one number for each parameter, where the prior allows them.
    """

    name = "target_theta"

    def __init__(self, theta: Sequence[float]) -> None:
        finite = len(theta) > 0 and all(math.isfinite(value) for value in theta)
        require(finite, "objective.theta", [*theta], "one finite number for each parameter")
        self.theta = theta

    @override
    def check(self, dim_theta: int) -> None:
        expected = f"{dim_theta} numbers, one for each parameter"
        require(len(self.theta) == dim_theta, "objective.theta", [*self.theta], expected)

    @override
    def __call__(
        self, posterior: Posterior, x: Tensor, theta: Tensor | None, generator: Generator
    ) -> Climb:
        wanted = torch.as_tensor(self.theta).to(x).expand(len(x), -1)
        climb = NegativeLogLikelihood()(posterior, x, wanted, generator)
        with torch.no_grad():
            possible = bool((climb(x) < torch.inf).any())
        require(possible, "objective.theta", [*self.theta], "where q has mass: it has none there")
        return _negated(climb)


def _negated(climb: Climb) -> Climb:
    if not isinstance(climb, Sampled):
        return lambda x_adv: -climb(x_adv)
    score, step, fixed = climb.score, climb.step, climb.fixed
    return Sampled(
        lambda x_adv: -score(x_adv),
        lambda x_adv: -step(x_adv),
        None if fixed is None else lambda num_samples: _negated(fixed(num_samples)),
    )
