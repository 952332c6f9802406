"""Densities and samples of affine autoregressive flows with constant weights, compiled.

What attacks and metrics ask for again and again: log q(theta|x) with its gradients by theta and the
context, and samples. A gradient that is to be differentiated again is left to torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from robust_npe.estimators.conditioner import BoundConditioner
from robust_npe.estimators.kernels import density_kernels
from robust_npe.estimators.kernels.sampled_score import blas_threads
from robust_npe.estimators.univariate import LOG_SLOPE_LIMIT

__all__ = ["log_prob", "sample_and_log_prob"]

LogProb = Callable[[Tensor, Tensor], Tensor]
"""Maps columns of theta `(D, S * B)` and terms `(T * (H + 2 D), B)` to log q `(S * B,)`."""


def log_prob(
    nets: Sequence[BoundConditioner], theta: Tensor, terms: Tensor, by_torch: LogProb
) -> Tensor:
    """Return log q of the columns of theta, `(S * B,)`.

    Args:
        nets: The T conditioners, in the order from theta to z.
        theta: Shape `(D, S * B)`.
        terms: The context terms of all conditioners, then their direct ones, `(T * (H + 2 D), B)`.
        by_torch: The same density, for second derivatives.
    """
    return _Density.apply(_packed(nets), by_torch, theta, terms)


@torch.no_grad()
def sample_and_log_prob(
    nets: Sequence[BoundConditioner], z: Tensor, terms: Tensor
) -> tuple[Tensor, Tensor]:
    """Return theta of the columns of noise z, `(D, S * B)`, and its log density, `(S * B,)`; other
    arguments as for `log_prob`."""
    with blas_threads():
        results = density_kernels.samples(z.numpy(), terms.numpy(), *_packed(nets))
    theta, log_prob = map(torch.from_numpy, results)
    return theta, log_prob


def _packed(nets: Sequence[BoundConditioner]) -> tuple[Any, ...]:
    """Return direct weights, weights, biases, layout and the limit of log slopes, as kernels take
    them."""
    with torch.no_grad():
        V = torch.stack([net.direct for net in nets]).numpy()
        W, b = (
            torch.cat([tensor.flatten() for net in nets for tensor in part(net)]).numpy()
            for part in (attrgetter("weights"), attrgetter("biases"))
        )
    return V, W, b, nets[0].blocks.layout, LOG_SLOPE_LIMIT


class _Density(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, packed: tuple[Any, ...], by_torch: LogProb, theta: Tensor, terms: Tensor
    ) -> Tensor:
        is_sloped = any(ctx.needs_input_grad)
        with blas_threads():
            results = density_kernels.densities(theta.numpy(), terms.numpy(), *packed, is_sloped)
        log_prob, *gradients = map(torch.from_numpy, results)
        ctx.by_torch = by_torch
        ctx.save_for_backward(theta, terms, *gradients)
        return log_prob

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        theta, terms, by_theta, by_terms = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            # views, because one may depend on the other
            inputs = [tensor.view_as(tensor).requires_grad_() for tensor in (theta, terms)]
            value = ctx.by_torch(*inputs)
            return None, None, *torch.autograd.grad(value, inputs, gradient, create_graph=True)
        by_sample = (by_terms * gradient).unflatten(1, (-1, terms.shape[1]))
        return None, None, by_theta * gradient, by_sample.sum(1)
