"""Equations that are fast in bursts, e.g. spikes: each member of a batch takes its own steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robust_npe.checks import require
from robust_npe.tasks.ode import System

__all__ = ["Stimulus", "solve_adaptive"]

Rest = Callable[[Tensor], Tensor]
"""State at time 0, `(n, B)`, for parameters `(P, B)`."""

# Dormand & Prince (1980): weights of the earlier slopes in each stage, and of all in the error
STAGES = [
    torch.tensor(weights, dtype=torch.float64)
    for weights in (
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    )
]
ERROR = torch.tensor(
    (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    dtype=torch.float64,
)

SHRINK, GROW, SAFETY = 0.2, 3.0, 0.9
CHECK_EVERY, COMPACT_BELOW = 8, 0.8
SMALLEST, LARGEST = 1e-6, 1 / 200  # steps, as a fraction of the duration


@dataclass(frozen=True)
class Stimulus:
    """An input that is added to the derivative of the first state between two times.

    Attributes:
        onset: Time at which it is switched on, after 0.
        offset: Time at which it is switched off, after the onset.
        size: Its size for parameters `(P, B)`: a function that returns `(B,)`.
    """

    onset: float
    offset: float
    size: Callable[[Tensor], Tensor]


def solve_adaptive(
    system: System,
    rest: Rest,
    parameters: Tensor,
    stimulus: Stimulus,
    duration: float,
    num_points: int,
    tolerance: Tensor,
    block: int = 12_288,
) -> Tensor:
    """Solve with the fifth-order method of Dormand and Prince; return the first state.

    Each member has its own time and step, so that only those in a spike take small steps, and
    one member's solution does not depend on the others. Steps end where the stimulus jumps;
    between steps the solution is a cubic polynomial with the right values and slopes.

    Source: Dormand & Prince (1980), "A family of embedded Runge-Kutta formulae".

    Args:
        system: The equations without the stimulus.
        rest: Their state at time 0.
        parameters: Parameters of each member, shape `(*, P)`.
        stimulus: What is added to the derivative of the first state.
        duration: Time of the last point, after the stimulus.
        num_points: Number of points including time 0, at least 2.
        tolerance: Largest error of each state in one step, shape `(n,)`.
        block: Largest number of members solved together.

    Returns:
        The first state in float64, shape `(*, num_points)`. A member whose step would have to be
        smaller than a millionth of the duration is given up: its remaining points are NaN.
    """
    order = 0 < stimulus.onset < stimulus.offset < duration
    require(order, "stimulus", (stimulus.onset, stimulus.offset), f"ordered in (0, {duration})")
    require(num_points >= 2, "num_points", num_points, "at least 2")
    require(bool((tolerance > 0).all()), "tolerance", tolerance.tolist(), "positive")
    if torch.is_grad_enabled() and parameters.requires_grad:
        raise ValueError(
            "parameters require a gradient, which the solver cannot give: call .detach() on them "
            "or simulate under torch.no_grad()."
        )
    flat = parameters.double().reshape(-1, parameters.shape[-1])
    times = torch.linspace(0, duration, num_points, dtype=torch.float64)
    solution = torch.full((len(flat), num_points), torch.nan, dtype=torch.float64)
    with torch.no_grad():
        blocks = max(1, -(-len(flat) // block))
        pairs = zip(flat.tensor_split(blocks), solution.tensor_split(blocks), strict=True)
        for rows, out in pairs:
            _Run(system, rest, rows.T.contiguous(), stimulus, times, tolerance.double(), out).run()
    return solution.reshape(*parameters.shape[:-1], num_points)


class _Run:
    """The members of one block that are still under way; every tensor's last axis is theirs."""

    def __init__(
        self,
        system: System,
        rest: Rest,
        parameters: Tensor,
        stimulus: Stimulus,
        times: Tensor,
        tolerance: Tensor,
        out: Tensor,
    ) -> None:
        self.system, self.stimulus, self.times, self.out = system, stimulus, times, out
        self.error_weight = 1 / tolerance[:, None]
        self.later = torch.cat((times[1:], times.new_tensor([torch.inf])))
        self.largest = LARGEST * float(times[-1])
        self.smallest = SMALLEST * float(times[-1])
        self.parameters = parameters
        self.state = rest(parameters)
        count = parameters.shape[1]
        self.member = torch.arange(count)
        self.next_point = torch.ones(count, dtype=torch.long)
        self.due = torch.full((count,), float(times[1]), dtype=torch.float64)
        self.time = torch.zeros(count, dtype=torch.float64)
        self.step = torch.full_like(self.time, self.largest / 10)
        self.input = torch.zeros_like(self.time)
        out[:, 0] = self.state[0]
        self._prepare()
        self._derivative(self.state, self.slopes[0])

    def _prepare(self) -> None:
        """Make what depends on which members are under way."""
        self.bare = self.system(self.parameters)
        self.input_size = self.stimulus.size(self.parameters)
        self.slopes = self.state.new_empty(len(ERROR), *self.state.shape)
        self.new, self.error = torch.empty_like(self.state), torch.empty_like(self.state)

    def _derivative(self, state: Tensor, out: Tensor) -> None:
        self.bare(state, out)
        out[0].add_(self.input)

    def run(self) -> None:
        """Advance until every member is finished, dropping the finished ones now and then."""
        iteration = 0
        while len(self.time):
            self._advance()
            iteration += 1
            if iteration % CHECK_EVERY == 0:
                active = self.due < torch.inf
                if int(active.sum()) < COMPACT_BELOW * len(active) or not active.any():
                    self._keep(active.nonzero()[:, 0])

    def _keep(self, kept: Tensor) -> None:
        slope = self.slopes[0][:, kept]
        for name in ("parameters", "state"):
            setattr(self, name, getattr(self, name)[:, kept])
        for name in ("member", "next_point", "due", "time", "step", "input"):
            setattr(self, name, getattr(self, name)[kept])
        self._prepare()
        self.slopes[0] = slope

    def _advance(self) -> None:
        """Try one step of every member; those with a small error take it."""
        onset, offset, end = self.stimulus.onset, self.stimulus.offset, float(self.times[-1])
        stop = torch.full_like(self.time, end)
        stop.masked_fill_(self.time < offset, offset).masked_fill_(self.time < onset, onset)
        room = stop - self.time
        size = torch.minimum(self.step, room)
        error = self._try(size)
        taken = error <= 1
        clipped = size >= room
        time = torch.where(clipped, stop, self.time + size)
        self._record(taken, time, size)
        self._control(taken & clipped, size, error)
        torch.where(taken, self.new, self.state, out=self.state)
        torch.where(taken, self.slopes[-1], self.slopes[0], out=self.slopes[0])
        self.time = torch.where(taken, time, self.time)
        self._switch(taken & clipped)

    def _try(self, size: Tensor) -> Tensor:
        """Compute one step's new state and slopes; return its error over the tolerance.

        The last stage is the new state itself, so its slope is the next step's first one.
        """
        flat = self.slopes.flatten(1)
        for k, weights in enumerate(STAGES, start=1):
            torch.mv(flat[:k].T, weights, out=self.new.view(-1))
            self.new.mul_(size).add_(self.state)
            self._derivative(self.new, self.slopes[k])
        torch.mv(flat.T, ERROR, out=self.error.view(-1))
        self.error.mul_(self.error_weight).abs_()
        return self.error.amax(0).mul_(size)

    def _control(self, at_stop: Tensor, size: Tensor, error: Tensor) -> None:
        """Choose the next step; one that was cut short by a stop says nothing about it."""
        factor = error.clamp(min=1e-5).pow_(-0.2).mul_(SAFETY).clamp_(SHRINK, GROW)
        step = size * factor.nan_to_num_(SHRINK)
        self.step = torch.where(at_stop, self.step, step).clamp_(max=self.largest)
        self.due.masked_fill_(self.step < self.smallest, torch.inf)

    def _record(self, taken: Tensor, time: Tensor, size: Tensor) -> None:
        """Write the points that the step has passed; rounding must not lose the last one."""
        reached = torch.where(taken, time + 1e-9 * self.largest, -1.0)
        while True:
            hit = (self.due <= reached).nonzero()[:, 0]
            if not len(hit):
                return
            h, point = size[hit], self.next_point[hit]
            s = ((self.due[hit] - self.time[hit]) / h).clamp_(max=1)
            start = self.state[0, hit]
            change = self.new[0, hit] - start
            a, b = self.slopes[0, 0, hit] * h, self.slopes[-1, 0, hit] * h
            cubic = start + s * (a + s * (3 * change - 2 * a - b + s * (a + b - 2 * change)))
            self.out[self.member[hit], point] = cubic
            self.next_point[hit] = point + 1
            self.due[hit] = self.later[point]

    def _switch(self, at_stop: Tensor) -> None:
        """Switch the stimulus for members that have just reached its onset or offset."""
        on = (self.time >= self.stimulus.onset) & (self.time < self.stimulus.offset)
        jump = (self.input_size * on - self.input) * at_stop
        self.input += jump
        self.slopes[0, 0] += jump
