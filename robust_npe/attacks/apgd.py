"""Auto-PGD: projected gradient ascent that chooses its own step sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from robust_npe.attacks.balls import Ball
from robust_npe.attacks.base import Attack, Found, comparable, frozen
from robust_npe.attacks.objectives import (
    Climb,
    Objective,
    usable,
    value_and_slope,
    with_samples,
)
from robust_npe.checks import require_positive_integer
from robust_npe.posterior import Posterior
from robust_npe.random import child

__all__ = ["APGD", "checkpoints"]

FIRST_STEP = 2.0  # in radii
MOMENTUM = 0.75  # share of the new step, against the previous move
ENOUGH = 0.75  # share of steps that have to increase the objective


class APGD(Attack):
    """Auto-PGD: momentum, and steps that are halved at checkpoints where the objective has not
    risen in three of four steps, or where neither its maximum nor the step has changed since the
    checkpoint before; the search goes on from the best point then, at rest. There is no step size
    to choose.

    Such decisions need values that can be compared, so that an objective that is estimated from
    samples is climbed on the same `num_samples` throughout. Where divergences are small (below
    about 0.1 nats) their noise is as large as what there is to find, and APGD climbs that: `PGD`,
    with fresh samples in every step, finds more there.

    In L1 the directions are those of `L1.steepest_step`, not the sparsity schedule of APGD-L1
    (https://arxiv.org/abs/2103.01208).

    References:
        Croce & Hein (2020), "Reliable evaluation of adversarial robustness with an ensemble of
        diverse parameter-free attacks", https://arxiv.org/abs/2003.01690

    Args:
        objective: What to increase.
        steps: Number of gradient steps.
        num_samples: Samples of an objective that is estimated from them, the same in all steps.
    """

    name = "apgd"

    def __init__(self, objective: Objective, steps: int = 100, num_samples: int = 32) -> None:
        require_positive_integer("attack.steps", steps)
        require_positive_integer("attack.num_samples", num_samples)
        self.objective = objective
        self.steps = steps
        self.num_samples = num_samples

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
            bound = self.objective(posterior, x, theta, child(generator))
            climb = with_samples(bound, self.num_samples)
            start = x + ball.sample(x, generator) if initial is None else initial
            x_adv = ball.feasible(x, start)
            return self._climb(climb, x, x_adv, ball)

    def _climb(self, climb: Climb, x: Tensor, x_adv: Tensor, ball: Ball) -> Found:
        value, slope = _compared(climb, x_adv)
        state = _State(x_adv, value, slope, x.new_full((len(x), 1), FIRST_STEP))
        stops = checkpoints(self.steps)
        previous, gradients = x_adv, torch.zeros_like(value)
        for step in range(self.steps):
            gradients += usable(slope)
            target = ball.feasible(x, x_adv + state.length * ball.steepest_step(slope))
            weight = MOMENTUM if step else 1.0  # there is no previous move at first
            move = weight * (target - x_adv) + (1 - weight) * (x_adv - previous)
            previous, x_adv = x_adv, ball.feasible(x, x_adv + move)
            before = value
            value, slope = _compared(climb, x_adv)
            state.note(x_adv, value, slope, value > before)
            if step + 1 in stops:
                halved = state.check()
                x_adv = torch.where(halved, state.best, x_adv)
                previous = torch.where(halved, state.best, previous)
                slope = torch.where(halved, state.slope, slope)
                value = torch.where(halved.squeeze(-1), state.value, value)
        return Found(state.best, 1 - gradients / self.steps)


@dataclass
class _State:
    """The best point of each observation, with value and gradient, and how the search goes.

    Attributes:
        best: Shape `(B, Dx)`.
        value: Shape `(B,)`.
        slope: Shape `(B, Dx)`.
        length: Length of the steps in radii, shape `(B, 1)`.
    """

    best: Tensor
    value: Tensor
    slope: Tensor
    length: Tensor

    def __post_init__(self) -> None:
        self.rises = torch.zeros_like(self.value)
        self.count = 0
        self.value_then = self.value
        self.halved_then = torch.ones_like(self.value, dtype=torch.bool)  # none to compare with

    def note(self, x_adv: Tensor, value: Tensor, slope: Tensor, risen: Tensor) -> None:
        """Take in a step."""
        better = value > self.value
        self.best = torch.where(better.unsqueeze(-1), x_adv, self.best)
        self.slope = torch.where(better.unsqueeze(-1), slope, self.slope)
        self.value = torch.where(better, value, self.value)
        self.rises += risen
        self.count += 1

    def check(self) -> Tensor:
        """Halve steps where the search has stalled since the last check; return where, `(B, 1)`."""
        few = self.rises < ENOUGH * self.count
        stuck = ~self.halved_then & (self.value <= self.value_then)
        halved = few | stuck
        self.length = torch.where(halved.unsqueeze(-1), self.length / 2, self.length)
        self.value_then, self.halved_then = self.value, halved
        self.rises, self.count = torch.zeros_like(self.rises), 0
        return halved.unsqueeze(-1)


def checkpoints(steps: int) -> list[int]:
    """Return the steps after which the length of steps is looked at: the published
    ceil(p_j steps), p_0 = 0, p_1 = 0.22, p_j+1 = p_j + max(p_j - p_j-1 - 0.03, 0.06)."""
    percent = [0, 22]
    while percent[-1] < 100:
        percent.append(percent[-1] + max(percent[-1] - percent[-2] - 3, 6))
    return sorted({-(-p * steps // 100) for p in percent[1:-1]})


def _compared(climb: Climb, x_adv: Tensor) -> tuple[Tensor, Tensor]:
    value, slope = value_and_slope(climb, x_adv)
    return comparable(value), slope
