"""Projected gradient ascent."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from robust_npe.attacks.balls import Ball
from robust_npe.attacks.base import Attack, Domain, frozen
from robust_npe.attacks.objectives import Climb, Objective, Sampled
from robust_npe.checks import require
from robust_npe.posterior import Posterior
from robust_npe.random import child

__all__ = ["PGD"]

_SCHEDULES = ("cosine", "constant")


class PGD(Attack):
    """Projected gradient ascent on an objective, keeping the best iterate of each observation.

    References:
        Madry et al. (2018), "Towards deep learning models resistant to adversarial attacks",
        https://arxiv.org/abs/1706.06083

    Args:
        ball: Allowed perturbations.
        objective: What to increase.
        domain: Box that x~ must stay in, None for no limit.
        steps: Number of gradient steps.
        step_size: Length of the first step, as a fraction of the radius.
        schedule: `cosine` lets the steps shrink to zero, which settles on a maximum and allows a
            larger first step; the published setting is `constant` with a step size of 0.1.
        start: Size of the random start as a fraction of the ball. It must not be zero: x itself
            is a stationary point of every divergence.
        select: `best` returns, for each observation, the better of the best iterate and the last
            one, judged with fresh random numbers; `last` returns the last iterate.
    """

    def __init__(
        self,
        ball: Ball,
        objective: Objective,
        domain: Domain | None = None,
        steps: int = 200,
        step_size: float = 0.3,
        schedule: str = "cosine",
        start: float = 1.0,
        select: str = "best",
    ) -> None:
        super().__init__(ball, domain)
        require(steps > 0, "attack.steps", steps, "a positive integer")
        require(step_size > 0, "attack.step_size", step_size, "a positive number")
        require(schedule in _SCHEDULES, "attack.schedule", schedule, f"one of {_SCHEDULES}")
        require(0 < start <= 1, "attack.start", start, "in (0, 1]")
        require(select in ("best", "last"), "attack.select", select, "best or last")
        self.name = "fgsm" if steps == 1 else "pgd"
        self.objective = objective
        self.steps = steps
        self.step_size = step_size
        self.schedule = schedule
        self.start = start
        self.select = select

    def __call__(
        self,
        posterior: Posterior,
        x: Tensor,
        theta: Tensor | None = None,
        *,
        generator: Generator,
        initial: Tensor | None = None,
    ) -> Tensor:
        """See `Attack`.

        Args:
            posterior: See `Attack`, and so are the next two.
            x: Shape `(B, Dx)`.
            theta: Shape `(B, D)`.
            generator: Source of randomness.
            initial: Where to start instead of at random, shape `(B, Dx)`; not at x itself.
        """
        x = x.detach()
        with frozen(posterior):
            climb = self.objective(posterior, x, theta, child(generator))
            random = x + self.start * self.ball.sample(x, generator)
            start = self.feasible(x, random if initial is None else initial)
            best, last = self._climb(climb, x, start)
            if self.select == "last":
                return last
            judge = self.objective(posterior, x, theta, child(generator))
            with torch.no_grad():
                better = _comparable(judge(best)) > _comparable(judge(last))
            return torch.where(better.unsqueeze(-1), best, last)

    def _climb(self, climb: Climb, x: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best iterate before the last step, and the last iterate."""
        climb = climb.step if isinstance(climb, Sampled) else climb
        best, best_value = x_adv, x.new_full(x.shape[:-1], -torch.inf)
        for step in range(self.steps):
            x_adv = x_adv.detach().requires_grad_(True)
            with torch.enable_grad():
                value = climb(x_adv)
                (gradient,) = torch.autograd.grad(value.sum(), x_adv)
            x_adv, value = x_adv.detach(), _comparable(value.detach())
            better = value > best_value
            best = torch.where(better.unsqueeze(-1), x_adv, best)
            best_value = torch.where(better, value, best_value)
            move = self._length(step) * self.ball.steepest_step(gradient)
            x_adv = self.feasible(x, x_adv + move)
        return best, x_adv

    def _length(self, step: int) -> float:
        if self.schedule == "constant" or self.steps == 1:
            return self.step_size
        return self.step_size * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def _comparable(value: Tensor) -> Tensor:
    """Values that are not finite count as worst: they are numerical accidents, not successes."""
    return torch.where(value.isfinite(), value, -torch.inf)
