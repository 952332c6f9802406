"""Many small ordinary differential equations at once: classical Runge-Kutta in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robust_npe.checks import require, require_positive, require_positive_integer

__all__ = ["Derivative", "System", "solve_rk4"]

Derivative = Callable[[Tensor, Tensor], Callable[[], None]]
"""Makes a function that writes dy/dt of a state `(n, B)` into its second argument `(n, B)`, as both
are whenever it is called: their rows are looked up once, not at each of thousands of steps."""

System = Callable[[Tensor], Derivative]
"""Makes the derivative for parameters `(P, B)`: what depends on them alone is computed once."""


def solve_rk4(
    system: System,
    initial: Tensor,
    parameters: Tensor,
    duration: float,
    num_points: int,
    substeps: int,
    block: int = 8192,
) -> Tensor:
    """Solve autonomous equations on equally spaced times with the classical fourth-order method.

    The step is the same for the whole batch: steps adapted to each member do not vectorise, and
    adapted to the batch they make one member's solution depend on the others. What is smooth and
    not stiff is solved this way to far below the observation noise. The state is stored as
    `(n, B)` and the batch is cut into blocks, so that a step works in place on memory that stays
    in the processor's cache. A solution that overflows is left as it is, infinite or NaN.

    Args:
        system: The equations.
        initial: State at time 0, shape `(n,)`.
        parameters: Parameters of each member, shape `(*, P)`.
        duration: Time of the last point, positive.
        num_points: Number of points including time 0, at least 2.
        substeps: Runge-Kutta steps from one point to the next, at least 1.
        block: Members solved together.

    Returns:
        Solutions in float64, shape `(*, n, num_points)`.

    Raises:
        ValueError: If a size is out of range, or if the result would need a gradient: the solver
            works in place and is not differentiable.
    """
    require_positive("duration", duration)
    require(num_points >= 2, "num_points", num_points, "at least 2")
    require_positive_integer("substeps", substeps)
    if torch.is_grad_enabled() and parameters.requires_grad:
        raise ValueError(
            "parameters require a gradient, which the solver cannot give: call .detach() on them "
            "or simulate under torch.no_grad()."
        )
    flat = parameters.double().reshape(-1, parameters.shape[-1])
    solution = torch.empty(len(flat), len(initial), num_points, dtype=torch.float64)
    step = duration / (num_points - 1) / substeps
    with torch.no_grad():
        for rows, out in zip(flat.split(block), solution.split(block), strict=True):
            derivative = system(rows.T.contiguous())
            state = initial.double()[:, None].repeat(1, len(rows))
            out.copy_(_trajectory(derivative, state, step, num_points, substeps).permute(2, 1, 0))
    return solution.reshape(*parameters.shape[:-1], len(initial), num_points)


def _trajectory(
    derivative: Derivative, state: Tensor, step: float, num_points: int, substeps: int
) -> Tensor:
    """Advance `state (n, B)` in place and return it at every point, shape `(points, n, B)`."""
    points = state.new_empty(num_points, *state.shape)
    slope, stage, total = (torch.empty_like(state) for _ in range(3))
    points[0] = state
    at_state, at_stage = derivative(state, slope), derivative(stage, slope)
    for point in points[1:]:
        for _ in range(substeps):
            at_state()
            torch.add(state, slope, alpha=step / 6, out=total)
            torch.add(state, slope, alpha=step / 2, out=stage)
            at_stage()
            total.add_(slope, alpha=step / 3)
            torch.add(state, slope, alpha=step / 2, out=stage)
            at_stage()
            total.add_(slope, alpha=step / 3)
            torch.add(state, slope, alpha=step, out=stage)
            at_stage()
            torch.add(total, slope, alpha=step / 6, out=state)
        point.copy_(state)
    return points
