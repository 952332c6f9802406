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

__all__ = ["TargetPosterior", "TargetTheta", "TowardsAnother"]


class TowardsAnother(Objective):
    """Common part of attacks towards another observation: the next one of those that are attacked
    together.

    Args:
        shift: How far down the batch the target is; the last ones have the first ones as targets.
    """

    rowwise = False

    def __init__(self, shift: int = 1) -> None:
        require(shift != 0, "objective.shift", shift, "an integer other than 0")
        self.shift = shift

    @override
    def check_posterior(self, posterior: Posterior, x: Tensor) -> None:
        self.targets(x)

    def targets(self, x: Tensor) -> Tensor:
        """Return the target of each row of `x (B, Dx)`.

        Raises:
            ConfigError: Some rows would have themselves as targets.
        """
        others = (
            f"no multiple of the number of observations attacked together, {len(x)} (at most "
            "evaluation.batch_size of them; the last ones may be fewer)"
        )
        require(self.shift % len(x) != 0, "objective.shift", self.shift, others)
        return x.roll(-self.shift, 0)


class TargetPosterior(TowardsAnother):
    """-KL(q(.|x_target) || q(.|x~)): q is to be the posterior of another observation.

    Args:
        shift: See `TowardsAnother`.
        num_samples: Samples of q(.|x_target) in each step, as for `KLForward`.
    """

    name = "target_posterior"

    def __init__(self, shift: int = 1, num_samples: int = 2) -> None:
        super().__init__(shift)
        self.num_samples = num_samples
        self._divergence = KLForward(num_samples)

    @override
    def __call__(
        self, posterior: Posterior, x: Tensor, theta: Tensor | None, generator: Generator
    ) -> Climb:
        return _negated(self._divergence(posterior, self.targets(x), theta, generator))


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
