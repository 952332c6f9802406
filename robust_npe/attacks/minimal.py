"""The smallest perturbation that breaks a posterior, for each observation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from robust_npe.attacks.balls import Ball
from robust_npe.attacks.base import Attack
from robust_npe.attacks.objectives import Climb, Objective, with_samples
from robust_npe.checks import require, require_positive, require_positive_integer
from robust_npe.posterior import Posterior
from robust_npe.random import child

__all__ = ["Minimal", "minimal_radius"]

FIRST = 1 / 8  # of the largest radius: where the search begins
DOWN = 2**0.5  # factor below the smallest radius that breaks, until an attack fails there
HALVINGS = 10  # of the segment from x to an x~ that breaks


@dataclass(frozen=True)
class Minimal:
    """The nearest x~ that break the posterior.

    Attributes:
        radius: The norm of `x_adv - x` in the unit of the radii, shape `(B,)`: 0 where x itself
            breaks it, inf where no x~ was found that does.
        x_adv: Shape `(B, Dx)`; x where none was found.
    """

    radius: Tensor
    x_adv: Tensor


@torch.no_grad()
def minimal_radius(
    attack: Attack,
    posterior: Posterior,
    x: Tensor,
    theta: Tensor | None,
    ball_of: Callable[[float | Tensor], Ball],
    criterion: Objective,
    threshold: float,
    largest: float,
    generator: Generator,
    searches: int = 10,
    tolerance: float = 0.02,
    num_samples: int = 1000,
) -> Minimal:
    """Search for the smallest radius at which an attack breaks the posterior.

    All observations are attacked in one batch, each at a radius of its own: radii double until the
    criterion is above the threshold; then they are bisected, in their logarithm, between the
    largest at which the attack failed and the nearest x~ that breaks. Each x~ that breaks is drawn
    towards x as far as it still does, and at the end once more, or pushed away, with fresh random
    numbers. So the radius is that of an x~ at hand: an upper bound, which a stronger attack can
    only lower.

    References:
        Brendel et al. (2018), https://arxiv.org/abs/1712.04248 (the median radius as a measure)
        Rony et al. (2019), https://arxiv.org/abs/1811.09600 (a radius for each row)

    Args:
        attack: What searches in a ball. Its objective should rise with the criterion.
        posterior: What is attacked.
        x: Clean observations of shape `(B, Dx)`.
        theta: The parameters that generated x, shape `(B, D)`, where attack or criterion need them.
        ball_of: Returns the ball of one radius, or of one for each row, `(B,)`.
        criterion: What is measured at x~, with random numbers that are not the attack's.
        threshold: Value of the criterion above which the posterior counts as broken.
        largest: Largest radius to look at, positive.
        generator: Source of randomness.
        searches: Number of attacks at most.
        tolerance: Relative distance to the largest radius that failed, at which a search ends.
        num_samples: Samples behind the final criterion; a quarter of them during the search.
    """
    _check(largest, searches, tolerance, num_samples)
    x = x.detach()
    space = _Space(x, ball_of, largest)
    climb = criterion(posterior, x, theta, child(generator))
    broken = _above(threshold, climb, num_samples // 4)
    lower = x.new_zeros(len(x))
    known = _Bracket(x, lower, torch.where(broken(x), 0.0, torch.inf).to(lower))
    # random starts: the best x~ of another radius, alone or in turns, did no better as a start
    for _ in range(searches):
        unsettled = (known.lower < largest) & (known.lower * (1 + tolerance) < known.upper)
        if not unsettled.any():
            break
        radius = _next_radius(known.lower, known.upper, largest)
        x_adv = attack(posterior, x, theta, ball=ball_of(radius), generator=child(generator))
        failed = unsettled & ~broken(x_adv)
        known = known.narrowed(failed, radius, *space.nearest_on_ray(x_adv, broken, reach=1.0))
    # the nearest of many x~ were lucky with the numbers that they were chosen by
    broken = _above(threshold, criterion(posterior, x, theta, child(generator)), num_samples)
    return Minimal(*reversed(space.nearest_on_ray(known.nearest, broken, reach=2.0)))


def _above(threshold: float, climb: Climb, num_samples: int) -> Broken:
    value = with_samples(climb, num_samples)
    return lambda x_adv: value(x_adv) > threshold


class _Bracket(NamedTuple):
    """The nearest x~ that breaks, `(B, Dx)`, the largest radius that failed, and its own."""

    nearest: Tensor
    lower: Tensor
    upper: Tensor

    def narrowed(self, failed: Tensor, radius: Tensor, x_adv: Tensor, norm: Tensor) -> _Bracket:
        """Take in where an attack failed at a radius, and x~ that break, at their radii."""
        better = norm < self.upper
        upper = torch.where(better, norm, self.upper)
        nearest = torch.where(better.unsqueeze(-1), x_adv, self.nearest)
        lower = torch.where(failed, radius, self.lower)
        # an attack that failed in a ball with such an x~ in it has shown nothing
        return _Bracket(nearest, torch.where(lower > upper, 0.0, lower), upper)


def _check(largest: float, searches: int, tolerance: float, num_samples: int) -> None:
    require(0 < largest < torch.inf, "largest", largest, "a positive number")
    require_positive_integer("searches", searches)
    require_positive("tolerance", tolerance)
    require(num_samples > 3, "num_samples", num_samples, "at least 4")


Broken = Callable[[Tensor], Tensor]
"""Tells which x~ `(B, Dx)` break the posterior, bool `(B,)`."""


def _next_radius(lower: Tensor, upper: Tensor, largest: float) -> Tensor:
    """Return where to attack each row next, `(B,)`, from the largest radius that failed (0 before)
    and the smallest that breaks (inf before)."""
    failed = lower > 0
    up = torch.where(failed, 2 * lower, FIRST * largest).clamp(max=largest)
    down = torch.where(failed, (lower * upper).sqrt(), upper / DOWN)
    return torch.where(upper < torch.inf, down, up)


@dataclass(frozen=True)
class _Space:
    """Observations, and the largest balls around them."""

    x: Tensor
    ball_of: Callable[[float | Tensor], Ball]
    largest: float

    def nearest_on_ray(self, x_adv: Tensor, broken: Broken, reach: float) -> tuple[Tensor, Tensor]:
        """Return the points nearest to x that break, on the rays from x through x~ up to `reach`
        times as far, and their radii: x itself and inf where none does."""
        ball = self.ball_of(self.largest)

        def at(factor: Tensor) -> Tensor:
            return ball.feasible(self.x, self.x + factor.unsqueeze(-1) * (x_adv - self.x))

        low, one = self.x.new_zeros(len(self.x)), self.x.new_ones(len(self.x))
        high = torch.where(broken(at(one)), one, reach)
        found, still = broken(at(high)), broken(self.x)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            broke = broken(at(middle))
            low, high = torch.where(broke, low, middle), torch.where(broke, middle, high)
        nearest = torch.where((found & ~still).unsqueeze(-1), at(high), self.x)
        radius = ball.norm(nearest - self.x) * (self.largest / ball.radius)
        return nearest, torch.where(found | still, radius, torch.inf)
