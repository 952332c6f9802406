"""Rational-quadratic splines by compiled code for the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from robust_npe.estimators.kernels import fits_kernels
from robust_npe.estimators.univariate import LOG_SLOPE_LIMIT, RationalQuadraticSpline

__all__ = ["CompiledSpline"]


class CompiledSpline(RationalQuadraticSpline):
    """The same functions, by compiled code where that works: `x (D, N)`, `phi (3 K - 1, D, N)`.

    A gradient that is to be differentiated again is left to torch, and so is an inverse with a
    graph. Not for the transforms of `torch.func`.
    """

    @override
    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        if x.ndim == 2 and fits_kernels(x):
            return _Spline.apply(self, x, phi)
        return super().forward(x, phi)

    @override
    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        if y.ndim != 2 or not fits_kernels(y) or torch.is_grad_enabled():
            return super().inverse(y, phi)
        from robust_npe.estimators.kernels import spline_kernels  # numba takes long to import

        arrays = (tensor.numpy() for tensor in (y.contiguous(), phi, self.relative_sizes(phi)))
        x, log_slope = spline_kernels.inverse(*arrays, self.bound, LOG_SLOPE_LIMIT)
        return torch.from_numpy(x), torch.from_numpy(log_slope)


class _Spline(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spline: CompiledSpline, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        from robust_npe.estimators.kernels import spline_kernels

        sizes = spline.relative_sizes(phi)
        ctx.spline = spline
        ctx.save_for_backward(x, phi, sizes)
        arrays = (tensor.numpy() for tensor in (x.contiguous(), phi, sizes))
        y, log_slope = spline_kernels.forward(*arrays, spline.bound, LOG_SLOPE_LIMIT)
        return torch.from_numpy(y), torch.from_numpy(log_slope)

    @staticmethod
    def backward(ctx: Any, y_bar: Tensor, log_slope_bar: Tensor) -> tuple[Tensor | None, ...]:
        from robust_npe.estimators.kernels import spline_kernels

        spline, (x, phi, sizes) = ctx.spline, ctx.saved_tensors
        cotangents = y_bar, log_slope_bar
        if torch.is_grad_enabled():
            return None, *_differentiable_gradient(spline, (x, phi), cotangents)
        # contiguous, since each layout would be compiled on its own
        rows = (tensor.contiguous() for tensor in (x, *cotangents))
        arrays = (tensor.numpy() for tensor in (*rows, phi, sizes))
        limits = LOG_SLOPE_LIMIT, spline.size_limit
        gradients = spline_kernels.backward(*arrays, spline.bound, *limits)
        return None, *(torch.from_numpy(gradient) for gradient in gradients)


def _differentiable_gradient(
    spline: CompiledSpline, inputs: tuple[Tensor, ...], cotangents: tuple[Tensor, ...]
) -> list[Tensor | None]:
    # phi depends on x, so what is asked for are derivatives with respect to new names of them
    inputs = tuple(tensor.view_as(tensor) for tensor in inputs)
    needed = [i for i, tensor in enumerate(inputs) if tensor.requires_grad]
    outputs = RationalQuadraticSpline.forward(spline, *inputs)
    wanted = [inputs[i] for i in needed]
    gradients = torch.autograd.grad(outputs, wanted, cotangents, create_graph=True)
    found = dict(zip(needed, gradients, strict=True))
    return [found.get(i) for i in range(len(inputs))]
