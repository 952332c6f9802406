r"""Linear relaxation of ReLU networks: how far f(x + delta) can be from f(x).

A ReLU whose input z + dz may change sign lies between two parallel lines: with l <= z + dz <= u,

    relu(z + dz) - relu(z) = s dz + offset + error xi,   s = u / (u - l),   -1 <= xi <= 1.

Substituting layer by layer, from the output back to x, gives

    f(x + delta) - f(x) = slope delta + offset + sum_k error_k xi_k

with one column error_k and one xi_k for each unit that may change sign. The intervals [l, u] are
bounded by the same procedure, one layer after the other.

References:
    Zhang et al. (2018), "Efficient neural network robustness certification with general activation
    functions" (CROWN), https://arxiv.org/abs/1811.00866
    Weng et al. (2018), "Towards fast computation of certified robustness for ReLU networks"
    (Fast-Lin: parallel lines), https://arxiv.org/abs/1804.09699
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robust_npe.certificates.region import Region

__all__ = ["Layer", "Relaxation", "relaxed"]

Layer = tuple[Tensor, Tensor]
"""Weight `(out, in)` and bias `(out,)`."""

STEPS = 12  # of the search for weights, any of which give a bound
FLOOR = 1e-9  # smallest weight, relative to the largest


class Relaxation(NamedTuple):
    """What is known of f(x + delta) - f(x) = slope delta + offset + error xi, |xi| <= 1.

    Attributes:
        slope: Shape `(B, m, Dx)`; `(1, m, Dx)` where all observations have the same.
        offset: Shape `(B, m)`.
        error: Shape `(B, m, K)`.
    """

    slope: Tensor
    offset: Tensor
    error: Tensor

    def bounds(self, region: Region) -> tuple[Tensor, Tensor]:
        """Return lower and upper bounds of each difference, `(B, m)`; 0, at delta = 0, is between
        them."""
        error = self.error.abs().sum(-1)
        low, high = region.extremes(self.slope)
        low, high = self.offset - error + low, self.offset + error + high
        return low.clamp(max=0), high.clamp(min=0)

    def map(self, matrix: Tensor) -> Relaxation:
        """Return the relaxation of `matrix (B, n, m)` times the differences."""
        offset = (matrix @ self.offset.unsqueeze(-1)).squeeze(-1)
        return Relaxation(matrix @ self.slope, offset, matrix @ self.error)

    def scaled(self, factor: Tensor) -> Relaxation:
        """Return the relaxation of the differences times `factor (B, m)`."""
        column = factor.unsqueeze(-1)
        return Relaxation(self.slope * column, self.offset * factor, self.error * column)

    def rows(self, start: int, stop: int | None) -> Relaxation:
        """Return the relaxation of some of the differences."""
        return Relaxation(*(part[:, start:stop] for part in self))

    def joined(self, other: Relaxation) -> Relaxation:
        """Return the relaxation of these and others of the same network, with the same xi."""
        return Relaxation(*(torch.cat(parts, dim=1) for parts in zip(self, other, strict=True)))

    def squared_norm(self, region: Region) -> Tensor:
        """Return upper bounds `(B,)` of the squared Euclidean norm of the differences."""
        if not self.offset.shape[1]:
            return self.offset.sum(1)
        shift = self.slope @ ((region.low + region.high) / 2).unsqueeze(-1)
        widths = self.slope * ((region.high - region.low) / 2).unsqueeze(1)
        centre = self.offset.unsqueeze(-1)
        free = torch.cat([self.error, centre], dim=-1)
        scaled = self.slope * region.size.unsqueeze(1)
        none = scaled[..., :0]
        if region.norm == "l2":
            bound = _squared_reach(scaled, free)
        elif region.norm == "l1":  # a norm is convex: the linear part is largest at a corner
            corner = torch.linalg.vector_norm(scaled, dim=1).amax(-1)
            bound = (corner + _squared_reach(none, free).sqrt()).square()
        if region.norm == "linf" or region.is_cut:
            columns = torch.cat([self.error, widths, centre + shift], dim=-1)
            box = _squared_reach(none, columns)
            bound = box if region.norm == "linf" else torch.minimum(box, bound)
        return bound


def relaxed(layers: Sequence[Layer], x: Tensor, region: Region) -> tuple[Tensor, Relaxation]:
    """Return f(x) and the relaxation of f(x + delta) - f(x) for a ReLU network.

    Args:
        layers: Linear layers with a ReLU between any two, float64.
        x: Observations, shape `(B, Dx)`, float64.
        region: The perturbations delta.

    Returns:
        f(x), shape `(B, m)`, and the relaxation.
    """
    z = x
    units: list[_Units] = []
    for i, (weight, bias) in enumerate(layers):
        z = (z.relu() if i else z) @ weight.T + bias
        relaxation = _substituted(weight, layers[:i], units, len(x))
        if i < len(layers) - 1:
            units.append(_relu(z, *relaxation.bounds(region)))
    return z, relaxation._replace(slope=relaxation.slope.expand(len(x), -1, -1))


class _Units(NamedTuple):
    """relu(z + dz) - relu(z) = slope dz + offset + error xi; each `(B, width)`."""

    slope: Tensor
    offset: Tensor
    error: Tensor


def _relu(z: Tensor, low: Tensor, high: Tensor) -> _Units:
    """Relax units with input `z` and low <= dz <= high."""
    lower, upper = z + low, z + high
    changes = (lower < 0) & (upper > 0)
    chord = upper / torch.where(changes, upper - lower, 1.0)
    slope = torch.where(changes, chord, (lower >= 0).to(z.dtype))
    # minus the line, a convex function: largest at both ends, smallest at the kink dz = -z
    top = torch.where(changes, upper - z.relu() - slope * high, 0.0)
    bottom = torch.where(changes, slope * z - z.relu(), 0.0)
    return _Units(slope, (top + bottom) / 2, (top - bottom) / 2)


def _substituted(
    weight: Tensor, before: Sequence[Layer], units: Sequence[_Units], batch: int
) -> Relaxation:
    """Return what the outputs of a linear layer are as functions of delta."""
    slope = weight.unsqueeze(0)
    offset, errors = weight.new_zeros(batch, len(weight)), [weight.new_zeros(batch, len(weight), 0)]
    for (earlier, _), unit in zip(reversed(before), reversed(units), strict=True):
        offset = offset + (slope @ unit.offset.unsqueeze(-1)).squeeze(-1)
        errors.append(slope * unit.error.unsqueeze(1))
        slope = (slope * unit.slope.unsqueeze(1)) @ earlier
    return Relaxation(slope, offset, torch.cat(errors, dim=-1))


def _squared_reach(ball: Tensor, box: Tensor) -> Tensor:
    r"""Bound |ball b + box t|^2 over |b|_2 <= 1 and |t_k| <= 1.

    By Cauchy-Schwarz it is at most the largest eigenvalue of

        ball ball^T / p_0 + sum_k box_k box_k^T / p_k,   p_0 + sum_k p_k = 1,

    for any positive p: the dual of Shor's relaxation. It is convex in p, and stationary where p is
    proportional to |ball^T v| and |box_k^T v| for the leading eigenvector v.

    Args:
        ball: Shape `(B, m, n)`.
        box: Shape `(B, m, K)`.

    Returns:
        Bounds of shape `(B,)`, infinite where numbers overflow.
    """
    outer = ball @ ball.mT
    first = torch.linalg.matrix_norm(ball, dim=(-2, -1)).unsqueeze(-1)
    weights = torch.cat([first, torch.linalg.vector_norm(box, dim=1)], dim=-1)
    bound = box.new_full((len(box),), torch.inf)
    for _ in range(STEPS):
        most = weights.amax(-1, keepdim=True)
        weights = torch.where(most > 0, weights / most, 1.0).clamp(min=FLOOR)
        weights = weights / weights.sum(-1, keepdim=True)
        matrix = outer / weights[:, :1, None] + (box / weights[:, None, 1:]) @ box.mT
        finite = matrix.isfinite().all((-2, -1))  # huge radii overflow: no bound
        values, vectors = torch.linalg.eigh(torch.where(finite[:, None, None], matrix, 0.0))
        found = torch.where(finite, values[:, -1].clamp(min=0), torch.inf)
        bound = torch.minimum(bound, found)
        leading = vectors[..., -1:]
        reach = torch.linalg.vector_norm(ball.mT @ leading, dim=1)
        target = torch.cat([reach, (box.mT @ leading).squeeze(-1).abs()], dim=-1)
        weights = (weights * target).sqrt()
    return bound
