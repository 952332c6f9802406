"""Functions that conditioners are made of: a ReLU without kink, and a limit for what enters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["limited", "limited_slope", "slope_of", "smooth_relu"]

LIMIT = 5.0  # standard deviations; `limited` leaves what is within as it is


def smooth_relu(a: Tensor) -> Tensor:
    """Return the mean of relu(a + u) over u in [-1, 1]: relu(a) for |a| > 1, else (a + 1)^2 / 4.

    Its slope has no jumps. So an affine flow that is made of it has a score whose gradient at
    reparameterised samples is that of the expected score: jumps at the kinks of a ReLU, which move
    with the weights, would be missing in it (for splines, those at their knots still are).
    """
    return _SmoothReLU.apply(a)


def slope_of(h: Tensor) -> Tensor:
    """Return the slope of `smooth_relu` where its value is h: min(1, sqrt(h))."""
    return h.sqrt().clamp(max=1.0)


class _SmoothReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        slope = _slope(a)
        ctx.save_for_backward(a, slope)
        return (a - slope).mul_(slope).add_(slope)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        a, slope = ctx.saved_tensors
        return gradient * (_slope(a) if torch.is_grad_enabled() else slope)


def _slope(a: Tensor) -> Tensor:
    return torch.add(a, 1.0).mul(0.5).clamp(0.0, 1.0)


def limited(t: Tensor) -> Tensor:
    """Return t where |t| is at most 5, and beyond, with its sign, 5 (1 + log(|t| / 5)).

    A network that is linear far outside of its training data would turn an outlier of x into a
    density of 10^-1000.
    """
    size = t.abs().clamp(min=LIMIT)
    return t * ((size / LIMIT).log() + 1) * (LIMIT / size)


def limited_slope(t: Tensor) -> Tensor:
    """Return the derivative of `limited` at t."""
    return LIMIT / t.abs().clamp(min=LIMIT)
