"""Projected gradient ascent, and its one-step relative."""

from __future__ import annotations

import copy
import math
from typing import Literal

import torch
from torch import Generator, Tensor

from robust_npe.attacks.balls import Ball
from robust_npe.attacks.base import Attack, Found, best_of, comparable, frozen
from robust_npe.attacks.objectives import Climb, Objective, Sampled, usable, value_and_slope
from robust_npe.checks import require, require_positive, require_positive_integer
from robust_npe.posterior import Posterior
from robust_npe.random import child

__all__ = ["FGSM", "PGD", "PaperPGD", "with_step_samples"]

_SCHEDULES = ("cosine", "constant")


class PGD(Attack):
    """Projected gradient ascent on an objective, keeping the best iterate of each observation.

    References:
        Madry et al. (2018), "Towards deep learning models resistant to adversarial attacks",
        https://arxiv.org/abs/1706.06083

    Args:
        objective: What to increase.
        steps: Number of gradient steps.
        step_size: Length of the first step, as a fraction of the radius.
        schedule: `cosine` lets the steps shrink to zero, which settles on a maximum and allows a
            larger first step; the published setting is `constant` with a step size of 0.1.
        start: Size of the random start as a fraction of the ball. It must not be zero: x itself
            is a stationary point of every divergence.
        select: `best` returns, for each observation, the better of the best iterate and the last
            one, judged with fresh random numbers; `last` returns the last iterate.
    """

    name = "pgd"

    def __init__(
        self,
        objective: Objective,
        steps: int = 200,
        step_size: float = 0.3,
        schedule: Literal["cosine", "constant"] = "cosine",
        start: float = 1.0,
        select: Literal["best", "last"] = "best",
    ) -> None:
        require_positive_integer("attack.steps", steps)
        require_positive("attack.step_size", step_size)
        require(schedule in _SCHEDULES, "attack.schedule", schedule, f"one of {_SCHEDULES}")
        require(0 < start <= 1, "attack.start", start, "in (0, 1]")
        require(select in ("best", "last"), "attack.select", select, "best or last")
        self.objective = objective
        self.steps = steps
        self.step_size = step_size
        self.schedule = schedule
        self.start = start
        self.select = select

    def search(
        self,
        posterior: Posterior,
        x: Tensor,
        theta: Tensor | None,
        ball: Ball,
        generator: Generator,
        initial: Tensor | None = None,
    ) -> Found:
        """Search as `Attack.search` does, from `initial (B, Dx)` where that is given instead of
        from a random point; it must not be x itself."""
        x = x.detach()
        with frozen(posterior):
            climb = self.objective(posterior, x, theta, child(generator))
            random = x + self.start * ball.sample(x, generator)
            start = ball.feasible(x, random if initial is None else initial)
            best, last, zero = self._climb(climb, x, start, ball)
            if self.select == "last":
                return Found(last, zero)
            candidates = (last, best)
            x_adv = best_of(self.objective, posterior, x, theta, candidates, generator)
            return Found(x_adv, zero)

    def _climb(
        self, climb: Climb, x: Tensor, x_adv: Tensor, ball: Ball
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best iterate before the last step, the last iterate, and the share of steps
        without a usable gradient."""
        climb = climb.step if isinstance(climb, Sampled) else climb
        best, best_value = x_adv, x.new_full(x.shape[:-1], -torch.inf)
        gradients = torch.zeros_like(best_value)
        for step in range(self.steps):
            value, slope = value_and_slope(climb, x_adv)
            value = comparable(value)
            better = value > best_value
            best = torch.where(better.unsqueeze(-1), x_adv, best)
            best_value = torch.where(better, value, best_value)
            gradients += usable(slope)
            move = self._length(step) * ball.steepest_step(slope)
            x_adv = ball.feasible(x, x_adv + move)
        return best, x_adv, 1 - gradients / self.steps

    def _length(self, step: int) -> float:
        if self.schedule == "constant" or self.steps == 1:
            return self.step_size
        return self.step_size * 0.5 * (1 + math.cos(math.pi * step / self.steps))


class FGSM(Attack):
    """One full step along the steepest direction: the sign of the gradient for `norm=linf`.

    References:
        Goodfellow, Shlens & Szegedy (2015), "Explaining and harnessing adversarial examples",
        https://arxiv.org/abs/1412.6572

    Args:
        objective: What to increase.
        start: Size of the random start as a fraction of the ball; x itself is a stationary point
            of every divergence. Returned where the step makes things worse.
    """

    name = "fgsm"

    def __init__(self, objective: Objective, start: float = 0.01) -> None:
        self.objective = objective
        self.start = start
        self._step = PGD(objective, steps=1, step_size=1.0, start=start)

    def search(
        self,
        posterior: Posterior,
        x: Tensor,
        theta: Tensor | None,
        ball: Ball,
        generator: Generator,
    ) -> Found:
        """Take the step."""
        return self._step.search(posterior, x, theta, ball, generator)


def with_step_samples(objective: Objective, num_samples: int, steps: int) -> Objective:
    """Return an objective that takes this many samples, new ones in each of the steps; as it is
    where it is not estimated from samples."""
    changed = copy.copy(objective)
    for key, value in (("num_samples", num_samples), ("pool", num_samples * steps)):
        if hasattr(changed, key):
            setattr(changed, key, value)
    return changed


class PaperPGD(Attack):
    """The published attack: 200 steps of a tenth of the radius from a random point of the ball,
    with 5 fresh samples of the posterior in each, and the last iterate returned, however good.

    A yardstick; `PGD` with its defaults costs less and finds as much. One thing is kinder here: the
    samples come in antithetic pairs where the posterior offers them.

    Args:
        objective: What to increase; its own number of samples is not used.
    """

    name = "paper_pgd"
    steps, num_samples = 200, 5

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        published = with_step_samples(objective, self.num_samples, self.steps)
        settings = {"step_size": 0.1, "schedule": "constant", "select": "last"}
        self._attack = PGD(published, self.steps, **settings)  # type: ignore[arg-type]

    def search(
        self,
        posterior: Posterior,
        x: Tensor,
        theta: Tensor | None,
        ball: Ball,
        generator: Generator,
    ) -> Found:
        """Search for perturbed observations; arguments as for `Attack.search`."""
        return self._attack.search(posterior, x, theta, ball, generator)
