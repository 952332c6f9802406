"""Densities and samples of autoregressive flows, compiled.

What training, attacks and metrics ask for again and again: log q(theta|x) with its gradients by
theta, the context and the weights, and samples. A gradient that is to be differentiated again is
left to torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from robust_npe.estimators.conditioner import BoundConditioner
from robust_npe.estimators.kernels import density_kernels
from robust_npe.estimators.kernels.sampled_score import blas_threads, spline_settings
from robust_npe.estimators.univariate import LOG_SLOPE_LIMIT, Univariate

__all__ = ["log_prob", "sample_and_log_prob"]

NOT_TENSORS = (None,) * 4  # gradients of the first arguments of `_Density`
LogProb = Callable[[Tensor, Tensor, Sequence[BoundConditioner]], Tensor]
"""Maps columns of theta `(D, S * B)`, terms `(T * (H + 2 D), B)` and conditioners to log q."""


def log_prob(
    nets: Sequence[BoundConditioner],
    univariate: Univariate,
    theta: Tensor,
    terms: Tensor,
    by_torch: LogProb,
) -> Tensor:
    """Return log q of the columns of theta, `(S * B,)`.

    Args:
        nets: The T conditioners, in the order from theta to z.
        univariate: What is applied to each coordinate; see `AutoregressiveFlow.score_method`.
        theta: Shape `(D, S * B)`.
        terms: The context terms of all conditioners, then their direct ones, `(T * (H + 2 D), B)`.
        by_torch: The same density, for second derivatives.
    """
    settings = nets[0].blocks.layout, LOG_SLOPE_LIMIT, spline_settings(univariate)
    tensors = [t for net in nets for t in (net.direct, *net.weights, *net.biases)]
    is_graded = torch.is_grad_enabled()  # which it never is within the function
    return _Density.apply(nets, settings, by_torch, is_graded, theta, terms, *tensors)


@torch.no_grad()
def sample_and_log_prob(
    nets: Sequence[BoundConditioner], univariate: Univariate, z: Tensor, terms: Tensor
) -> tuple[Tensor, Tensor]:
    """Return theta of the columns of noise z, `(D, S * B)`, and its log density, `(S * B,)`; other
    arguments as for `log_prob`."""
    settings = nets[0].blocks.layout, LOG_SLOPE_LIMIT, spline_settings(univariate)
    with blas_threads():
        results = density_kernels.samples(z.numpy(), terms.numpy(), *_packed(nets), *settings)
    theta, log_prob = map(torch.from_numpy, results)
    return theta, log_prob


def _packed(nets: Sequence[BoundConditioner]) -> tuple[Any, ...]:
    """Return direct weights, weights and biases, as kernels take them."""
    with torch.no_grad():
        V = torch.stack([net.direct for net in nets])
        W = torch.cat([weight.flatten() for net in nets for weight in net.weights])
        b = torch.cat([bias.flatten() for net in nets for bias in net.biases])
    return V.numpy(), W.numpy(), b.numpy()


class _Density(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        nets: Sequence[BoundConditioner],
        settings: tuple[Any, ...],
        by_torch: LogProb,
        is_graded: bool,
        theta: Tensor,
        terms: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        wanted = is_graded and any(ctx.needs_input_grad)
        trained = is_graded and any(ctx.needs_input_grad[6:])
        packed = _packed(nets)
        with blas_threads():
            results = density_kernels.densities(
                theta.numpy(), terms.numpy(), *packed, *settings, wanted, trained
            )
        log_prob, by_theta, by_terms, saved = map(torch.from_numpy, results)
        ctx.nets, ctx.settings, ctx.by_torch, ctx.packed = nets, settings, by_torch, packed
        ctx.is_trained = trained
        ctx.save_for_backward(by_theta, saved if trained else by_terms, theta, terms, *tensors)
        return log_prob

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        by_theta, by_terms, *inputs = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            return *NOT_TENSORS, *_differentiable_gradient(ctx, inputs, gradient)
        theta_bar, batch = by_theta * gradient, inputs[1].shape[1]
        if ctx.is_trained:
            weights = gradient.contiguous().numpy()
            layout = ctx.settings[0]
            with blas_threads():
                results = density_kernels.weigh(weights, by_terms.numpy(), *ctx.packed[:2], layout)
            terms_bar, V_bar, flat = map(torch.from_numpy, results)
            tensors_bar = _unpacked(ctx.nets, V_bar, flat)
        else:
            terms_bar, tensors_bar = by_terms * gradient, [None] * len(inputs[2:])
        if terms_bar.shape[1] > batch:
            terms_bar = terms_bar.unflatten(1, (-1, batch)).sum(1)
        return *NOT_TENSORS, theta_bar, terms_bar, *tensors_bar


def _unpacked(nets: Sequence[BoundConditioner], V: Tensor, flat: Tensor) -> list[Tensor | None]:
    """Return the gradient of each tensor, from those of direct weights and of all others."""
    sizes = [w.numel() for net in nets for w in net.weights]
    sizes += [b.numel() for net in nets for b in net.biases]
    found, parts = iter(flat.split(sizes)), list[Tensor | None]()
    weights = [[next(found).view_as(w) for w in net.weights] for net in nets]
    for net, direct, own in zip(nets, V, weights, strict=True):
        parts += [direct, *own, *(next(found).view_as(b) for b in net.biases)]
    return parts


def _differentiable_gradient(
    ctx: Any, inputs: Sequence[Tensor], gradient: Tensor
) -> list[Tensor | None]:
    # views, because one may depend on another
    inputs = [tensor.view_as(tensor) for tensor in inputs]
    needed = [i for i, needs in enumerate(ctx.needs_input_grad[4:]) if needs]
    for i in needed:
        inputs[i].requires_grad_()
    theta, terms, *tensors = inputs
    remaining, nets = iter(tensors), []
    for net in ctx.nets:
        direct = next(remaining)
        weights = [next(remaining) for _ in net.weights]
        biases = [next(remaining) for _ in net.biases]
        nets.append(net._replace(direct=direct, weights=weights, biases=biases))
    value = ctx.by_torch(theta, terms, nets)
    wanted = [inputs[i] for i in needed]
    found = torch.autograd.grad(value, wanted, gradient, create_graph=True, allow_unused=True)
    gradients = dict(zip(needed, found, strict=True))
    return [gradients.get(i) for i in range(len(inputs))]
