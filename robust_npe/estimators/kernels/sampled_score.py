r"""Scores of an autoregressive flow at its own samples, and their gradient, compiled.

The Fisher penalty needs s = d log q(theta|x) / dx at theta ~ q(.|x), and the gradient of a function
of s with respect to the weights, through theta as well. Automatic differentiation takes thousands
of small operations for it, most of them in the sequential inverse of the flow. Here one kernel
goes from z to theta for s, and one from theta to z for the gradient. Names are those of the
derivation in `docs/kernels.md`, sections 1 to 4 and 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robust_npe.estimators.conditioner import Conditioner
from robust_npe.estimators.kernels import score_kernels
from robust_npe.estimators.univariate import (
    LOG_SLOPE_LIMIT,
    Affine,
    RationalQuadraticSpline,
    Univariate,
)

__all__ = ["blas_threads", "sampled_score"]


def sampled_score(
    context_layer: nn.Linear,
    conditioners: Sequence[Conditioner],
    univariate: Univariate,
    context: Tensor,
    z: Tensor,
) -> Tensor:
    """Return the gradient of log q(theta) with respect to the context, at theta = f^-1(z).

    Args:
        context_layer: The context's part of the first layers of all conditioners.
        conditioners: The T conditioners of a flow, in the order from theta to z.
        univariate: What is applied to each coordinate; see `AutoregressiveFlow.is_compiled`.
        context: Shape `(N, C)`.
        z: Base noise of shape `(D, N)`.

    Returns:
        Shape `(N, C)`, differentiable once with respect to all weights and the context.
    """
    weights = [w for net in conditioners for w in net.weights()]
    biases = [b for net in conditioners for b in net.biases()]
    inputs = z, context, context_layer.weight, context_layer.bias, *weights, *biases
    is_spline = isinstance(univariate, RationalQuadraticSpline)
    spline = (float(univariate.bound), univariate.size_limit) if is_spline else None
    settings = conditioners[0].blocks.layout, LOG_SLOPE_LIMIT, spline
    return _SampledScore.apply(settings, len(weights), *inputs)


class _SampledScore(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        settings: tuple[Any, ...],
        num_weights: int,
        z: Tensor,
        context: Tensor,
        weight: Tensor,
        bias: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.settings, ctx.shapes = settings, [p.shape for p in parameters]
        ctx.sizes = [p.numel() for p in parameters]
        flat = torch.cat([p.flatten() for p in parameters])
        W, b = flat.tensor_split([sum(ctx.sizes[:num_weights])])
        c = torch.addmm(bias.unsqueeze(1), weight, context.T)
        arrays = (tensor.numpy() for tensor in (z, c, W, b))
        with blas_threads():
            score, saved = map(torch.from_numpy, score_kernels.forward(*arrays, *settings))
        ctx.save_for_backward(context, weight, score, saved, W)
        return score.T @ weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        context, weight, score, *saved = ctx.saved_tensors
        arrays = (tensor.numpy() for tensor in (weight @ cotangent.T, *saved))
        with blas_threads():
            results = score_kernels.backward(*arrays, *ctx.settings)
        c_bar, flat = map(torch.from_numpy, results)
        context_bar = c_bar.T @ weight if ctx.needs_input_grad[3] else None
        weight_bar = torch.addmm(score @ cotangent, c_bar, context)
        parts = zip(flat.split(ctx.sizes), ctx.shapes, strict=True)
        parameters_bar = (part.view(shape) for part, shape in parts)
        return None, None, None, context_bar, weight_bar, c_bar.sum(1), *parameters_bar


def blas_threads() -> AbstractContextManager[Any]:
    """Products of compiled code, which are scipy's, take as many threads as those of torch."""
    return _blas().limit(limits=torch.get_num_threads())


@cache
def _blas() -> ThreadpoolController:
    import scipy.linalg.cython_blas  # noqa: F401 (a library is found once it is loaded)

    return ThreadpoolController().select(user_api="blas")
