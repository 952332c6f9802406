"""The smallest perturbation that breaks a posterior, for each observation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from robust_npe.attacks.balls import Ball
from robust_npe.attacks.base import Attack
from robust_npe.attacks.objectives import Objective, with_samples
from robust_npe.checks import require
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
    only lower. (Starting each search at the best x~ of another radius did worse than random starts,
    and taking turns was no better: 64 observations, SIR and the linear Gaussian.)

    References:
        Brendel, Rauber & Bethge (2018), "Decision-based adversarial attacks: reliable attacks
        against black-box machine learning models", https://arxiv.org/abs/1712.04248 (the median
        radius as a measure).
        Rony et al. (2019), "Decoupling direction and norm for efficient gradient-based L2
        adversarial attacks and defenses", https://arxiv.org/abs/1811.09600 (radius per row).

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

    def bound(samples: int) -> Broken:
        climb = with_samples(criterion(posterior, x, theta, child(generator)), samples)
        return lambda x_adv: climb(x_adv) > threshold

    broken = bound(num_samples // 4)
    nearest, lower = x, x.new_zeros(len(x))
    upper = torch.where(broken(x), 0.0, torch.inf).to(lower)
    for _ in range(searches):
        unsettled = (lower < largest) & (lower * (1 + tolerance) < upper)
        if not unsettled.any():
            break
        radius = _next_radius(lower, upper, largest)
        x_adv = attack(posterior, x, theta, ball=ball_of(radius), generator=child(generator))
        broke = broken(x_adv)
        lower = torch.where(unsettled & ~broke, radius, lower)
        nearer, norm = space.nearest_on_ray(x_adv, broken, reach=1.0)
        better = norm < upper
        upper = torch.where(better, norm, upper)
        nearest = torch.where(better.unsqueeze(-1), nearer, nearest)
        # an attack that failed in a ball with such an x~ in it has shown nothing
        lower = torch.where(lower > upper, 0.0, lower)
    # the nearest of many x~ were lucky with the numbers that they were chosen by
    return Minimal(*reversed(space.nearest_on_ray(nearest, bound(num_samples), reach=2.0)))


def _check(largest: float, searches: int, tolerance: float, num_samples: int) -> None:
    require(0 < largest < torch.inf, "largest", largest, "a positive number")
    require(searches > 0, "searches", searches, "a positive integer")
    require(tolerance > 0, "tolerance", tolerance, "a positive number")
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
