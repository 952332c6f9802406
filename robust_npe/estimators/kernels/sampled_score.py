r"""Scores of an autoregressive flow at its own samples, and their gradient, compiled.

The Fisher penalty needs s = d log q(theta|x) / dx at theta ~ q(.|x), and the gradient of a function
of s with respect to the weights, through theta as well. Automatic differentiation takes thousands
of small operations for it, most of them in the sequential inverse of the flow. Here one kernel
goes from z to theta for s, and one from theta to z for the gradient. Names are those of the
derivation in `docs/kernels.md`, sections 1 to 4, 7 and 8.
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
from robust_npe.estimators.univariate import LOG_SLOPE_LIMIT, AffineSpline, Univariate

__all__ = ["blas_threads", "sampled_score", "spline_settings"]


def sampled_score(
    context_layer: nn.Linear,
    direct_layer: nn.Linear,
    conditioners: Sequence[Conditioner],
    univariate: Univariate,
    context: Tensor,
    z: Tensor,
) -> Tensor:
    """Return the gradient of log q(theta) with respect to the context, at theta = f^-1(z).

    Args:
        context_layer: The context's part of the first layers of all conditioners.
        direct_layer: The context's part of all shifts and log slopes.
        conditioners: The T conditioners of a flow, in the order from theta to z.
        univariate: What is applied to each coordinate; see `AutoregressiveFlow.score_method`.
        context: Shape `(N, C)`.
        z: Base noise of shape `(D, N)`.

    Returns:
        Shape `(N, C)`, differentiable once with respect to all weights and the context.
    """
    weights = [w for net in conditioners for w in net.weights()]
    biases = [b for net in conditioners for b in net.biases()]
    layers = context_layer.weight, context_layer.bias, direct_layer.weight
    direct = torch.stack([net.direct for net in conditioners])
    inputs = z, context, *layers, direct, *weights, *biases
    settings = conditioners[0].blocks.layout, LOG_SLOPE_LIMIT, spline_settings(univariate)
    return _SampledScore.apply(settings, len(weights), *inputs)


def spline_settings(univariate: Univariate) -> tuple[float, float] | None:
    """Return bound and limit of |log sizes| of the splines, None for affine transforms."""
    if not isinstance(univariate, AffineSpline):
        return None
    return float(univariate.spline.bound), univariate.spline.size_limit


class _SampledScore(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        settings: tuple[Any, ...],
        num_weights: int,
        z: Tensor,
        context: Tensor,
        first: Tensor,
        bias: Tensor,
        last: Tensor,
        direct: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.settings, ctx.shapes = settings, [p.shape for p in parameters]
        ctx.sizes = [p.numel() for p in parameters]
        flat = torch.cat([p.flatten() for p in parameters])
        W, b = flat.tensor_split([sum(ctx.sizes[:num_weights])])
        weight = torch.cat((first, last))
        c = weight @ context.T
        c[: len(bias)] += bias.unsqueeze(1)
        arrays = (tensor.numpy() for tensor in (z, c, direct, W, b))
        with blas_threads():
            score, saved = map(torch.from_numpy, score_kernels.forward(*arrays, *settings))
        ctx.save_for_backward(context, weight, score, saved, direct, W)
        ctx.split = [len(first), len(last)]
        return score.T @ weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        context, weight, score, *saved = ctx.saved_tensors
        arrays = (tensor.numpy() for tensor in (weight @ cotangent.T, *saved))
        with blas_threads():
            results = score_kernels.backward(*arrays, *ctx.settings)
        c_bar, direct_bar, flat = map(torch.from_numpy, results)
        context_bar = c_bar.T @ weight if ctx.needs_input_grad[3] else None
        first, last = torch.addmm(score @ cotangent, c_bar, context).split(ctx.split)
        layers_bar = first, c_bar[: len(first)].sum(1), last, direct_bar
        parts = zip(flat.split(ctx.sizes), ctx.shapes, strict=True)
        parameters_bar = (part.view(shape) for part, shape in parts)
        return None, None, None, context_bar, *layers_bar, *parameters_bar


def blas_threads() -> AbstractContextManager[Any]:
    """Products of compiled code, which are scipy's, take as many threads as those of torch."""
    return _blas().limit(limits=torch.get_num_threads())


@cache
def _blas() -> ThreadpoolController:
    import scipy.linalg.cython_blas  # noqa: F401 (a library is found once it is loaded)

    return ThreadpoolController().select(user_api="blas")
