"""Successive halving: short climbs from many starts, longer ones from the few that do best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from robust_npe.attacks.balls import Ball
from robust_npe.attacks.base import comparable
from robust_npe.attacks.objectives import (
    KLForward,
    KLReverse,
    NegativeLogLikelihood,
    Objective,
    with_samples,
)
from robust_npe.attacks.pgd import PGD, with_step_samples
from robust_npe.posterior import Posterior
from robust_npe.random import child

__all__ = ["Problem", "Round", "halve", "values"]

SAME = 0.05  # distance in radii below which two points are taken for one
ROWS = 1024  # that climb at once
ROWWISE = (KLForward, KLReverse, NegativeLogLikelihood)
"""Objectives whose values for one observation do not depend on the others of the batch."""


class Round(NamedTuple):
    """How many points climb, and how, see `PGD`; and how many samples rank those to choose from.
    Fewer points can afford more samples, of objectives that are estimated from samples."""

    points: int
    steps: int
    step_size: float
    num_samples: int = 2
    ranking: int = 20


class Problem(NamedTuple):
    """What is attacked: the arguments of `Attack.search`."""

    posterior: Posterior
    x: Tensor
    theta: Tensor | None
    ball: Ball

    def rows(self, index: Tensor) -> Problem:
        """Return the problem of the rows counted in `index (N,)`, which may repeat them."""
        theta = None if self.theta is None else self.theta[index]
        return Problem(self.posterior, self.x[index], theta, self.ball.rows(index))


@torch.no_grad()
def values(
    problem: Problem,
    objective: Objective,
    points: Sequence[Tensor],
    num_samples: int,
    generator: Generator,
) -> Tensor:
    """Return the values of K points `(B, Dx)` on fresh and common random numbers, `(K, B)`."""
    climb = objective(problem.posterior, problem.x, problem.theta, child(generator))
    score = with_samples(climb, num_samples)
    return torch.stack([comparable(score(point)) for point in points])


def halve(
    problem: Problem,
    objective: Objective,
    points: Sequence[Tensor],
    rounds: Sequence[Round],
    generator: Generator,
) -> tuple[list[Tensor], Tensor]:
    """Climb from the best of some points in every round, and rank again.

    References:
        Jamieson & Talwalkar (2016), "Non-stochastic best arm identification and hyperparameter
        optimization", https://arxiv.org/abs/1502.07943

    Args:
        problem: What is attacked.
        objective: What to climb.
        points: Where to start, each `(B, Dx)`.
        rounds: One after the other.
        generator: Source of randomness.

    Returns:
        The points of the last round, best start first, and the share of steps without a gradient,
        `(B,)`.
    """
    blind, steps = 0.0 * problem.x[:, 0], 0
    for kept, num_steps, step_size, step_samples, num_samples in rounds:
        ranking = values(problem, objective, points, num_samples, generator)
        points = _best(problem, points, ranking, kept)
        stepped = objective
        if type(objective) in ROWWISE:
            stepped = with_step_samples(objective, step_samples, num_steps)
        attack = PGD(stepped, num_steps, step_size, select="last")
        points, zero = _climb(problem, attack, points, generator)
        blind += len(points) * num_steps * zero
        steps += len(points) * num_steps
    return list(points), blind / max(steps, 1)


def _climb(
    problem: Problem, attack: PGD, points: Sequence[Tensor], generator: Generator
) -> tuple[list[Tensor], Tensor]:
    """Climb from several points `(B, Dx)` at once, stacked along the batch: small batches cost
    nearly as much as large ones."""
    batch = len(problem.x)
    size = max(1, ROWS // batch) if type(attack.objective) in ROWWISE else 1
    ends: list[Tensor] = []
    blind = 0.0 * problem.x[:, 0]
    for start in range(0, len(points), size):
        group = list(points[start : start + size])
        index = torch.arange(batch, device=problem.x.device).repeat(len(group))
        posterior, x, theta, ball = problem.rows(index)
        found = attack.search(posterior, x, theta, ball, generator, initial=torch.cat(group))
        ends += found.x_adv.split(batch)
        if found.zero_gradients is not None:
            blind += found.zero_gradients.view(-1, batch).sum(0)
    return ends, blind / len(points)


def _best(problem: Problem, points: Sequence[Tensor], ranking: Tensor, count: int) -> list[Tensor]:
    """Return for each row the points with the highest values `(K, B)`, those last that lie where a
    better one does."""
    stacked = torch.stack(list(points))
    order = ranking.argsort(dim=0, descending=True, stable=True)
    stacked = stacked.gather(0, order.unsqueeze(-1).expand_as(stacked))
    radius = torch.as_tensor(problem.ball.radius).to(stacked)
    repeated = torch.zeros_like(order, dtype=torch.bool)
    for i in range(1, len(stacked)):
        apart = torch.stack([problem.ball.norm(stacked[i] - earlier) for earlier in stacked[:i]])
        repeated[i] = (apart < SAME * radius).any(0)
    keep = repeated.float().argsort(dim=0, stable=True)[:count]
    return list(stacked.gather(0, keep.unsqueeze(-1).expand(-1, -1, stacked.shape[-1])))
