"""The perturbations that a certificate is about: a ball around x, cut by the domain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from robust_npe.attacks.balls import L1, L2, Ball, Linf

__all__ = ["Region"]

NORMS = {L1: "l1", L2: "l2", Linf: "linf"}


class Region(NamedTuple):
    """All delta with norm(delta / size) <= 1 and low <= delta <= high, for each of B observations.

    Float64, so that rounding is far below what is certified.

    Attributes:
        norm: `l1`, `l2` or `linf`.
        size: Half-widths of the ball along each feature, shape `(B, Dx)`.
        low: Lower bounds of delta, not positive, shape `(B, Dx)`.
        high: Upper bounds of delta, not negative, shape `(B, Dx)`.
        is_cut: Whether the bounds are tighter than those of the ball somewhere.
    """

    norm: str
    size: Tensor
    low: Tensor
    high: Tensor
    is_cut: bool

    @staticmethod
    def of(ball: Ball, x: Tensor) -> Region | None:
        """Return the perturbations of `x (B, Dx)` in a ball; None for a norm that is not known."""
        norm = NORMS.get(type(ball))
        if norm is None:
            return None
        x = x.double()
        radius = torch.as_tensor(ball.radius, dtype=x.dtype, device=x.device)
        size = (radius.unsqueeze(-1) * torch.ones_like(x)).expand_as(x)
        if ball.scale is not None:
            size = size * ball.scale.to(x)
        if ball.domain is None:
            return Region(norm, size, -size, size, False)
        low, high = ((bound.to(x) - x) for bound in ball.domain)
        low, high = torch.maximum(low, -size).clamp(max=0), torch.minimum(high, size).clamp(min=0)
        return Region(norm, size, low, high, bool(((low > -size) | (high < size)).any()))

    def split(self, rows: int) -> Iterator[Region]:
        """Yield the regions of so many observations at a time."""
        for size, low, high in zip(*(part.split(rows) for part in self[1:4]), strict=True):
            yield Region(self.norm, size, low, high, self.is_cut)

    def extremes(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Return lower and upper bounds `(B, m)` of linear forms of delta, `slope (B, m, Dx)` or
        `(1, m, Dx)`."""
        middle = _product(slope, (self.low + self.high) / 2)
        reach = _product(slope.abs(), (self.high - self.low) / 2)
        low, high = middle - reach, middle + reach
        if self.norm == "linf":
            return low, high
        scaled = slope * self.size.unsqueeze(1)
        dual = torch.inf if self.norm == "l1" else 2
        norm = torch.linalg.vector_norm(scaled, ord=dual, dim=-1)
        return torch.maximum(low, -norm), torch.minimum(high, norm)


def _product(matrix: Tensor, vector: Tensor) -> Tensor:
    """Return `matrix (B, m, Dx)` or `(1, m, Dx)` times `vector (B, Dx)`, `(B, m)`."""
    if len(matrix) == 1:
        return vector @ matrix[0].T
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
