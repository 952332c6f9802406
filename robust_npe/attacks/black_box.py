"""Attacks that evaluate the posterior and never ask for a gradient.

They find what gradients hide: rounding, steps, saturation, noise. A white-box attack that loses
against one of them was blind, and says little about robustness.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from robust_npe.attacks.balls import Ball, gaussian
from robust_npe.attacks.base import Attack, Found, comparable
from robust_npe.attacks.objectives import Climb, Objective, with_samples
from robust_npe.checks import require, require_positive, require_positive_integer
from robust_npe.posterior import Posterior
from robust_npe.random import child

__all__ = ["NES", "RandomSearch"]

GROWTH = 1.5  # of a step that succeeded; the fourth root divides one that failed
MOMENTUM = 0.5  # weight of the earlier gradients of NES
SHORTEST = 1e-3  # step of random search, as a fraction of the radius


class _Best(NamedTuple):
    """The best point of each observation so far."""

    x_adv: Tensor
    value: Tensor

    def improved(self, x_adv: Tensor, value: Tensor) -> tuple[_Best, Tensor]:
        """Return the better points, and where the new ones are not worse: ties count as better,
        which lets a search cross the plateaus of a quantised posterior."""
        better = value >= self.value
        kept = torch.where(better.unsqueeze(-1), x_adv, self.x_adv)
        return _Best(kept, torch.where(better, value, self.value)), better


class RandomSearch(Attack):
    """The best of random points on the ball's surface, improved by random steps along it.

    A quarter of the queries are points drawn at random. The others are steps from the best point
    so far, whose length grows where they succeed and shrinks where they fail, so that about one in
    five succeeds.

    References:
        Rechenberg (1973), "Evolutionsstrategie" (the length of the steps).
        Andriushchenko et al. (2020), "Square Attack: a query-efficient black-box adversarial attack
        via random search", https://arxiv.org/abs/1912.00049 (random search as an attack).

    Args:
        objective: What to increase.
        queries: Evaluations of the posterior at each observation, at least 2.
        num_samples: Samples of an objective that is estimated from them, the same in all queries.
    """

    name = "random_search"

    def __init__(self, objective: Objective, queries: int = 200, num_samples: int = 32) -> None:
        require(queries > 1, "attack.queries", queries, "at least 2")
        require_positive_integer("attack.num_samples", num_samples)
        self.objective = objective
        self.queries = queries
        self.num_samples = num_samples

    @torch.no_grad()
    def search(
        self,
        posterior: Posterior,
        x: Tensor,
        theta: Tensor | None,
        ball: Ball,
        generator: Generator,
    ) -> Found:
        """Search for perturbed observations; arguments as for `Attack.search`."""
        x = x.detach()
        climb = _queried(self.objective, posterior, x, theta, self.num_samples, generator)
        best = _start(climb, x, ball, generator)
        explored = max(1, self.queries // 4)
        for _ in range(explored - 1):
            x_adv = ball.feasible(x, x + ball.surface(x, generator))
            best, _ = best.improved(x_adv, climb(x_adv))
        length = x.new_full((len(x), 1), 0.5)
        for _ in range(self.queries - explored):
            step = best.x_adv - x + length * ball.surface(x, generator)
            x_adv = ball.feasible(x, x + _onto_surface(step, ball))
            best, better = best.improved(x_adv, climb(x_adv))
            length *= torch.where(better.unsqueeze(-1), GROWTH, GROWTH**-0.25)
            length.clamp_(SHORTEST, 1.0)
        return Found(best.x_adv)


class NES(Attack):
    """Gradient ascent with differences of the objective between random points: natural evolution
    strategies.

    The gradient is that of the objective smoothed with Gaussian noise around x~, estimated from
    antithetic pairs of points; those outside of ball or domain are moved into them first. Little
    noise follows the slopes, noise as large as the ball looks over steps and plateaus. The best
    point of all that were evaluated is returned.

    References:
        Ilyas et al. (2018), "Black-box adversarial attacks with limited queries and information",
        https://arxiv.org/abs/1804.08598

    Args:
        objective: What to increase.
        queries: Evaluations of the posterior at each observation, at least `2 * pairs + 1`.
        radius: Standard deviation of the noise in each feature, as a fraction of the ball's radius.
        pairs: Antithetic pairs of points for one gradient.
        step_size: Length of the first step, as a fraction of the ball's radius; steps shrink to
            zero linearly.
        num_samples: Samples of an objective that is estimated from them, the same in all queries.
    """

    name = "nes"

    def __init__(
        self,
        objective: Objective,
        queries: int = 320,
        radius: float = 0.3,
        pairs: int = 8,
        step_size: float = 0.5,
        num_samples: int = 32,
    ) -> None:
        require(0 < radius < torch.inf, "attack.radius", radius, "a positive number")
        require_positive_integer("attack.pairs", pairs)
        least = 2 * pairs + 1
        require(queries >= least, "attack.queries", queries, f"at least 2 * pairs + 1, {least}")
        require_positive("attack.step_size", step_size)
        require_positive_integer("attack.num_samples", num_samples)
        self.objective = objective
        self.queries = queries
        self.radius = radius
        self.pairs = pairs
        self.step_size = step_size
        self.num_samples = num_samples

    @torch.no_grad()
    def search(
        self,
        posterior: Posterior,
        x: Tensor,
        theta: Tensor | None,
        ball: Ball,
        generator: Generator,
    ) -> Found:
        """Search for perturbed observations; arguments as for `Attack.search`."""
        x = x.detach()
        climb = _queried(self.objective, posterior, x, theta, self.num_samples, generator)
        best = _start(climb, x, ball, generator)
        x_adv, average = best.x_adv, torch.zeros_like(x)
        steps = (self.queries - 1) // (2 * self.pairs + 1)
        for step in range(steps):
            slope, best = self._slope(climb, x, x_adv, ball, best, generator)
            average = MOMENTUM * average + slope
            move = self.step_size * (1 - step / steps) * ball.steepest_step(average)
            x_adv = ball.feasible(x, x_adv + move)
            best, _ = best.improved(x_adv, climb(x_adv))
        return Found(best.x_adv)

    def _slope(
        self, climb: Climb, x: Tensor, x_adv: Tensor, ball: Ball, best: _Best, generator: Generator
    ) -> tuple[Tensor, _Best]:
        """Return a multiple of the smoothed objective's gradient at x~, `(B, Dx)`."""
        unit = 1.0 if ball.scale is None else ball.scale.to(x)
        size = torch.as_tensor(ball.radius).to(x).unsqueeze(-1)
        slope = torch.zeros_like(x)
        for _ in range(self.pairs):
            offset = self.radius * size * unit * gaussian(x, generator)
            values = []
            for side in (x_adv + offset, x_adv - offset):
                probe = ball.feasible(x, side)
                values.append(climb(probe))
                best, _ = best.improved(probe, values[-1])
            difference = values[0] - values[1]
            difference = torch.where(difference.isfinite(), difference, 0.0).unsqueeze(-1)
            # divided by the offsets' covariance, but for a factor
            slope += difference * offset / unit**2
        norm = (slope * unit).norm(dim=-1, keepdim=True)  # all steps weigh the same in the average
        return slope / torch.where(norm > 0, norm, 1.0), best


def _queried(
    objective: Objective,
    posterior: Posterior,
    x: Tensor,
    theta: Tensor | None,
    num_samples: int,
    generator: Generator,
) -> Climb:
    climb = with_samples(objective(posterior, x, theta, child(generator)), num_samples)
    return lambda x_adv: comparable(climb(x_adv))


def _start(climb: Climb, x: Tensor, ball: Ball, generator: Generator) -> _Best:
    """Evaluate one point drawn from the ball's surface."""
    x_adv = ball.feasible(x, x + ball.surface(x, generator))
    return _Best(x_adv, climb(x_adv))


def _onto_surface(delta: Tensor, ball: Ball) -> Tensor:
    """Return perturbations `(B, Dx)` scaled to the ball's radius; zero stays zero."""
    norm = ball.norm(delta)
    factor = torch.as_tensor(ball.radius).to(norm) / torch.where(norm > 0, norm, 1.0)
    return delta * factor.unsqueeze(-1)
