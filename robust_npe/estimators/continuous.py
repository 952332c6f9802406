"""Continuous normalizing flows: distributions of where an ordinary differential equation ends."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import torch
from torch import Size, Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint
from torch.utils.checkpoint import checkpoint

from robust_npe.antithetic import Antithetic
from robust_npe.shapes import broadcast_shapes

__all__ = ["ContinuousFlow", "Field", "Grid"]

MAX_ROWS = 2048  # at a time, so that layers stay in the cache and graphs in memory


class Field(Protocol):
    """A vector field with its divergence, as `VectorField`."""

    def __call__(self, z: Tensor, context: Tensor, time: Tensor) -> Tensor:
        """Return the field at `z (*, D)`."""
        ...

    def with_divergence(self, z: Tensor, context: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Return the field, and the trace of its Jacobian, `(*)`."""
        ...


class Grid(NamedTuple):
    """Where a solver evaluates the field: ends and midpoints of K steps of equal length 1 / K.

    Attributes:
        times: What the field needs to know of each, `(2 K + 1, *)`.
        speeds: What the field is multiplied with at each of them, `(2 K + 1,)`.
    """

    times: Tensor
    speeds: Tensor


class ContinuousFlow(Antithetic, Distribution):
    r"""theta = scale z(1) with dz/ds = speed(s) F(z, x, s) and z(0) ~ N(0, I).

    Solved by the classical Runge-Kutta method of fourth order, log density and gradients through
    its steps (discretise, then optimise): backwards in time for the density of a given theta,

        log q(theta) = log N(z(0); 0, I) - D log scale - int_0^1 speed(s) tr dF/dz ds.

    References:
        Chen et al. (2018), "Neural ordinary differential equations",
        https://arxiv.org/abs/1806.07366

    Args:
        field: F.
        context: What it needs to know of the observations, `(*batch_shape, C)`.
        grid: What it needs to know of time.
        dim: Number of coordinates D.
        scale: A positive factor.
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012 (torch's interface)
    has_rsample = True

    def __init__(
        self, field: Field, context: Tensor, grid: Grid, dim: int, scale: float = 1.0
    ) -> None:
        self.context = context
        self._field = field
        self._grid = grid
        self._scale = scale
        super().__init__(context.shape[:-1], Size([dim]), validate_args=False)

    def log_prob(self, theta: Tensor) -> Tensor:
        """Return the log density of `theta (*sample_shape, *batch_shape, D)`, broadcast."""
        shape = broadcast_shapes(theta.shape[:-1], self.batch_shape)
        z, integral = self._solve(theta.expand(*shape, -1) / self._scale, direction=-1)
        return self._log_density(z, -integral)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw samples of shape `(*sample_shape, *batch_shape, D)`, differentiable."""
        z, _ = self._solve(self._noise(sample_shape), direction=1, divergence=False)
        return self._scale * z

    def rsample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Draw samples together with their log density, in one pass."""
        start = self._noise(sample_shape)
        z, integral = self._solve(start, direction=1)
        return self._scale * z, self._log_density(start, integral)

    def _noise(self, sample_shape: Any) -> Tensor:
        shape = self.batch_shape + self.event_shape
        return self._normal_noise(Size(sample_shape), shape, self.context)

    def _log_density(self, z: Tensor, integral: Tensor) -> Tensor:
        """Log density of what started at z, given the integral of the divergence on the way."""
        constant = z.shape[-1] * (0.5 * math.log(2 * math.pi) + math.log(self._scale))
        return -0.5 * z.square().sum(-1) - integral - constant

    def _solve(self, z: Tensor, direction: int, divergence: bool = True) -> tuple[Tensor, Tensor]:
        """Return where `z (*sample_shape, *batch_shape, D)` ends, and the integral of the
        divergence on the way; forward in time (direction 1) or backward (-1)."""

        def solve(z: Tensor) -> tuple[Tensor, Tensor]:
            return self._runge_kutta(z, direction, divergence)

        samples = z.reshape(-1, *self.batch_shape, z.shape[-1])
        pieces = samples.split(max(1, MAX_ROWS // max(1, self.batch_shape.numel())))
        if len(pieces) > 1 and torch.is_grad_enabled():  # one piece's graph at a time
            solved = [
                checkpoint(solve, piece, use_reentrant=False, preserve_rng_state=False)
                for piece in pieces
            ]
        else:
            solved = [solve(piece) for piece in pieces]
        ends, integrals = zip(*solved, strict=True)
        return torch.cat(ends).reshape(z.shape), torch.cat(integrals).reshape(z.shape[:-1])

    def _runge_kutta(self, z: Tensor, direction: int, divergence: bool) -> tuple[Tensor, Tensor]:
        stages = range(len(self._grid.speeds))[::direction]
        h = direction / (len(stages) // 2)
        integral = z.new_zeros(z.shape[:-1])
        for i in range(0, len(stages) - 1, 2):
            start, middle, end = stages[i : i + 3]
            v1, d1 = self._rates(z, start, divergence)
            v2, d2 = self._rates(z + h / 2 * v1, middle, divergence)
            v3, d3 = self._rates(z + h / 2 * v2, middle, divergence)
            v4, d4 = self._rates(z + h * v3, end, divergence)
            z = z + h / 6 * (v1 + 2 * (v2 + v3) + v4)
            integral = integral + h / 6 * (d1 + 2 * (d2 + d3) + d4)
        return z, integral

    def _rates(self, z: Tensor, i: int, divergence: bool) -> tuple[Tensor, Tensor | float]:
        """Return dz/ds and its divergence (0 where it is not wanted) at a point of the grid."""
        speed, time = self._grid.speeds[i], self._grid.times[i]
        if not divergence:
            return speed * self._field(z, self.context, time), 0.0
        velocity, trace = self._field.with_divergence(z, self.context, time)
        return speed * velocity, speed * trace
