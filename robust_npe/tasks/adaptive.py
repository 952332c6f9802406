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
    """Solve with the classical Runge-Kutta method and return the first state at equal intervals.

    Each member has its own time and step, so that only those in a spike take small steps, and
    one member's solution does not depend on the others. The error is estimated from the slope at
    the end of the step: h / 10 (k4 - f(y_new)) is the difference to an embedded third-order method
    (Dormand & Prince 1978, "New Runge-Kutta algorithms for numerical simulation in dynamical
    astronomy"), and that slope is the next step's first one. Steps end where the stimulus jumps;
    between steps the solution is a cubic polynomial with the right values and slopes.

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
        self.error_weight = 0.1 / tolerance[:, None]
        self.largest = LARGEST * float(times[-1])
        self.smallest = SMALLEST * float(times[-1])
        self.parameters = parameters
        self.state = rest(parameters)
        count = parameters.shape[1]
        self.member = torch.arange(count)
        self.next_point = torch.ones(count, dtype=torch.long)
        self.time = torch.zeros(count, dtype=torch.float64)
        self.step = torch.full_like(self.time, self.largest / 10)
        self.input = torch.zeros_like(self.time)
        self.slope = torch.empty_like(self.state)
        out[:, 0] = self.state[0]
        self._prepare()
        self._derivative(self.state, self.slope)

    def _prepare(self) -> None:
        """Make what depends on which members are under way."""
        self.bare = self.system(self.parameters)
        self.input_size = self.stimulus.size(self.parameters)
        self.work = [torch.empty_like(self.state) for _ in range(5)]

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
                active = self.next_point < len(self.times)
                if int(active.sum()) < COMPACT_BELOW * len(active) or not active.any():
                    self._keep(active.nonzero()[:, 0])

    def _keep(self, kept: Tensor) -> None:
        for name in ("parameters", "state", "slope"):
            setattr(self, name, getattr(self, name)[:, kept])
        for name in ("member", "next_point", "time", "step", "input"):
            setattr(self, name, getattr(self, name)[kept])
        self._prepare()

    def _advance(self) -> None:
        """Try one step of every member; those with a small error take it."""
        onset, offset, end = self.stimulus.onset, self.stimulus.offset, float(self.times[-1])
        stop = torch.full_like(self.time, end)
        stop.masked_fill_(self.time < offset, offset).masked_fill_(self.time < onset, onset)
        room = stop - self.time
        size = torch.minimum(self.step, room)
        new, new_slope, error = self._try(size)
        taken = error <= 1
        clipped = size >= room
        time = torch.where(clipped, stop, self.time + size)
        self._record(taken, time, size, new, new_slope)
        self._control(taken & clipped, size, error)
        torch.where(taken, new, self.state, out=self.state)
        torch.where(taken, new_slope, self.slope, out=self.slope)
        self.time = torch.where(taken, time, self.time)
        self._switch(taken & clipped)

    def _try(self, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One classical Runge-Kutta step: new state, slope there, error over tolerance."""
        state, slope = self.state, self.slope
        k, last, stage, total, new = self.work
        torch.addcmul(state, slope, size, value=1 / 6, out=total)
        torch.addcmul(state, slope, size, value=1 / 2, out=stage)
        self._derivative(stage, k)
        total.addcmul_(k, size, value=1 / 3)
        torch.addcmul(state, k, size, value=1 / 2, out=stage)
        self._derivative(stage, k)
        total.addcmul_(k, size, value=1 / 3)
        torch.addcmul(state, k, size, out=stage)
        self._derivative(stage, last)
        torch.addcmul(total, last, size, value=1 / 6, out=new)
        self._derivative(new, k)
        last.sub_(k).mul_(self.error_weight).abs_()
        return new, k, last.amax(0).mul_(size)

    def _control(self, at_stop: Tensor, size: Tensor, error: Tensor) -> None:
        """Choose the next step; one that was cut short by a stop says nothing about it."""
        factor = error.clamp(min=1e-4).pow_(-0.25).mul_(SAFETY).clamp_(SHRINK, GROW)
        step = size * factor.nan_to_num_(SHRINK)
        self.step = torch.where(at_stop, self.step, step).clamp_(max=self.largest)
        self.next_point.masked_fill_(self.step < self.smallest, len(self.times))

    def _record(
        self, taken: Tensor, time: Tensor, size: Tensor, new: Tensor, new_slope: Tensor
    ) -> None:
        """Write the points that the step has passed; rounding must not lose the last one."""
        reached = torch.where(taken, time + 1e-9 * self.largest, -1.0)
        last = len(self.times) - 1
        while True:
            point = self.times[self.next_point.clamp(max=last)]
            hit = ((point <= reached) & (self.next_point <= last)).nonzero()[:, 0]
            if not len(hit):
                return
            h = size[hit]
            s = ((point[hit] - self.time[hit]) / h).clamp_(max=1)
            start, change = self.state[0, hit], new[0, hit] - self.state[0, hit]
            a, b = self.slope[0, hit] * h, new_slope[0, hit] * h
            cubic = start + s * (a + s * (3 * change - 2 * a - b + s * (a + b - 2 * change)))
            self.out[self.member[hit], self.next_point[hit]] = cubic
            self.next_point[hit] += 1

    def _switch(self, at_stop: Tensor) -> None:
        """Switch the stimulus for members that have just reached its onset or offset."""
        on = (self.time >= self.stimulus.onset) & (self.time < self.stimulus.offset)
        jump = (self.input_size * on - self.input) * at_stop
        self.input += jump
        self.slope[0] += jump
