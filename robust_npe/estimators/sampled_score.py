r"""Scores of an affine autoregressive flow at its own samples, and their gradient, compiled.

The Fisher penalty needs s = d log q(theta|x) / dx at theta ~ q(.|x), and the gradient of a function
of s with respect to the weights, through theta as well. Automatic differentiation takes thousands
of small operations for it, most of them in the sequential inverse of the flow. Here two kernels per
transform do it all.

Forward, from z to theta: the inverse, and the gradient of log q(theta) with respect to every layer
before its nonlinearity; that of the first layer is the result s.

Backward, from theta to z, for a cotangent v of s: <v, s> is the derivative of log q along v, so v
is carried forward as the tangent of the first layer. The gradient of <v, s> with respect to the
outputs of each conditioner, at fixed inputs, is known then in closed form, and what comes through
theta and its intermediate values is added by the implicit function theorem, coordinate by
coordinate (see `inverse`). Every weight stands twice in <v, s>: in values and in tangents.

For the CPU. Columns, one for each sample, go in tiles that fit into the cache, and only those
weights are touched that the masks keep.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robust_npe.compiling import announced
from robust_npe.estimators.conditioner import Conditioner, Plan
from robust_npe.estimators.products import LANES, add_outer_products, add_product, close
from robust_npe.estimators.univariate import LOG_SLOPE_LIMIT

__all__ = ["sampled_score"]

TILE = 256  # columns at most
PRODUCTS = "81a5d7a9"  # hash of products.py: numba's cache notices changes of this file only
FLAGS = {"contract", "reassoc", "nsz", "arcp"}  # non-finite numbers keep their meaning


def sampled_score(
    context_layer: nn.Linear, conditioners: Sequence[Conditioner], context: Tensor, z: Tensor
) -> Tensor:
    """Return the gradient of log q(theta) with respect to the context, at theta = f^-1(z).

    Args:
        context_layer: The context's part of the first layers of all conditioners.
        conditioners: The T conditioners of an affine flow, in the order from theta to z.
        context: Shape `(N, C)`.
        z: Base noise of shape `(D, N)`.

    Returns:
        Shape `(N, C)`, differentiable once with respect to all weights and the context.
    """
    weights = [w for net in conditioners for w in net.weights()]
    biases = [b for net in conditioners for b in net.biases()]
    inputs = z, context, context_layer.weight, context_layer.bias, *weights, *biases
    return _SampledScore.apply(conditioners[0].plan, len(weights), *inputs)


class _SampledScore(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        num_weights: int,
        z: Tensor,
        context: Tensor,
        weight: Tensor,
        bias: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.plan, ctx.shapes = plan, [p.shape for p in parameters]
        ctx.sizes = [p.numel() for p in parameters]
        split = sum(ctx.sizes[:num_weights])
        flat = torch.cat([p.flatten() for p in parameters])
        terms = torch.addmm(bias.unsqueeze(1), weight, context.T)
        arrays = (tensor.numpy() for tensor in (z, terms, flat[:split], flat[split:]))
        score, *saved = map(torch.from_numpy, _announced_forward(*arrays, plan, LOG_SLOPE_LIMIT))
        ctx.save_for_backward(context, weight, score, *saved, flat[:split])
        return score.T @ weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        context, weight, score, *saved = ctx.saved_tensors
        arrays = (tensor.numpy() for tensor in (weight @ cotangent.T, *saved))
        gradients = _announced_backward(*arrays, ctx.plan, LOG_SLOPE_LIMIT)
        grad_terms, flat = map(torch.from_numpy, gradients)
        grad_context = grad_terms.T @ weight if ctx.needs_input_grad[3] else None
        grad_weight = torch.addmm(score @ cotangent, grad_terms, context)
        parts = zip(flat.split(ctx.sizes), ctx.shapes, strict=True)
        split = (part.view(shape) for part, shape in parts)
        return None, None, None, grad_context, grad_weight, grad_terms.sum(1), *split


@njit(cache=True, fastmath=FLAGS)
def _forward(z, terms, weights, biases, plan, log_slope_limit):  # type: ignore[no-untyped-def]
    """Return the scores, and what is needed again, in tiles of n columns.

    Returns:
        scores: `(T * H, N)`.
        theta: What goes into each transform, `(N / n, T, D, n)`.
        slope: Its derivative, same shape.
        adjoint: Gradient of log q with respect to what comes out of it, same shape.
        layers: Activations of its conditioner, those of the last layer being the outputs,
            `(N / n, T, M, n)`.
        score: Gradients with respect to all layers before their nonlinearity, same shape.
    """
    one, limit = z.dtype.type(1), z.dtype.type(log_slope_limit)
    ends, rows, _, starts, _ = plan
    dim, columns = z.shape
    tiles, hidden, last = max(1, (columns + TILE - 1) // TILE), rows[1], rows[-2]
    width = (columns + tiles * LANES - 1) // (tiles * LANES) * LANES
    transforms = len(terms) // hidden
    scores = np.empty_like(terms)
    theta = np.empty((tiles, transforms, dim, width), z.dtype)
    slope, adjoint = np.empty_like(theta), np.zeros_like(theta)
    layers = np.empty((tiles, transforms, rows[-1], width), z.dtype)
    score = np.empty_like(layers)
    value, below = np.zeros((dim, width), z.dtype), np.empty((dim, width), z.dtype)
    for t in range(tiles):
        begin, end = min(t * width, columns), min((t + 1) * width, columns)
        value[:] = 0
        value[:, : end - begin] = z[:, begin:end]
        adjoint[t, -1] = -value
        for i in range(transforms - 1, -1, -1):
            x, above, own, gradient = theta[t, i], adjoint[t, i], layers[t, i], score[t, i]
            flat = weights[i * starts[-1] : (i + 1) * starts[-1]]
            own[:hidden, end - begin :] = 0
            own[:hidden, : end - begin] = terms[i * hidden : (i + 1) * hidden, begin:end]
            for r in range(hidden, rows[-1]):
                own[r] = biases[i * (rows[-1] - hidden) + r - hidden]
            for g in range(ends.shape[1] - 1):
                _advance(g, x, own, own, flat, plan)
                for d in range(ends[0, g], ends[0, g + 1]):
                    shift, log_slope = own[last + 2 * d], own[last + 2 * d + 1]
                    out, before, steep = x[d], value[d], slope[t, i, d]
                    for c in range(width):
                        steep[c] = log_slope[c] / (one + abs(log_slope[c]) / limit)
                    for c in range(width):  # on its own: a call keeps loops from being vectorised
                        steep[c] = math.exp(steep[c])
                    for c in range(width):
                        out[c] = (before[c] - shift[c]) / steep[c]
            for g in range(ends.shape[1] - 2, -1, -1):
                for d in range(ends[0, g], ends[0, g + 1]):
                    shift, log_slope = last + 2 * d, last + 2 * d + 1
                    for c in range(width):
                        shrink = one / (one + abs(own[log_slope, c]) / limit)
                        pull = above[d, c] * slope[t, i, d, c]
                        below[d, c] = pull
                        gradient[shift, c] = above[d, c]
                        gradient[log_slope, c] = (pull * x[d, c] + one) * shrink * shrink
                _retreat(g, own, gradient, flat, plan)
                _to_coordinates(g, below, gradient, flat, plan)
            scores[i * hidden : (i + 1) * hidden, begin:end] = gradient[:hidden, : end - begin]
            if i:
                value[:] = x[::-1]
                adjoint[t, i - 1] = below[::-1]
    return scores, theta, slope, adjoint, layers, score


@njit(cache=True, fastmath=FLAGS)
def _backward(  # type: ignore[no-untyped-def]
    v, theta, slope, adjoint, layers, score, weights, plan, log_slope_limit
):
    """Return the gradients of <v, s> with respect to context terms, and to weights and biases."""
    one, two, limit = v.dtype.type(1), v.dtype.type(2), v.dtype.type(log_slope_limit)
    ends, rows, _, starts, _ = plan
    tiles, transforms, dim, width = theta.shape
    hidden, last = rows[1], rows[-2]
    grad_terms = np.empty_like(v)
    gradient_of_all = np.zeros(len(weights) + transforms * (rows[-1] - hidden), v.dtype)
    grad_weights, grad_biases = gradient_of_all[: len(weights)], gradient_of_all[len(weights) :]
    # of what goes into a transform and of what comes out of it
    tangent, after = np.zeros((dim, width), v.dtype), np.empty((dim, width), v.dtype)
    gradient, before = np.zeros((dim, width), v.dtype), np.empty((dim, width), v.dtype)
    tangents, gradients = np.empty_like(layers[0, 0]), np.empty_like(layers[0, 0])
    for t in range(tiles):
        begin, end = min(t * width, v.shape[1]), min((t + 1) * width, v.shape[1])
        tangent[:] = 0
        gradient[:] = 0
        for i in range(transforms):
            x, steep, above, own = theta[t, i], slope[t, i], adjoint[t, i], layers[t, i]
            flat = weights[i * starts[-1] : (i + 1) * starts[-1]]
            tangents[:] = 0
            tangents[:hidden, : end - begin] = v[i * hidden : (i + 1) * hidden, begin:end]
            for g in range(ends.shape[1] - 1):
                _advance(g, tangent, tangents, own, flat, plan)
            for g in range(ends.shape[1] - 2, -1, -1):
                _to_coordinates(g, gradient, gradients, flat, plan)
                for d in range(ends[0, g], ends[0, g + 1]):
                    shift, log_slope = last + 2 * d, last + 2 * d + 1
                    for c in range(width):
                        raw = own[log_slope, c]
                        shrink = one / (one + abs(raw) / limit)
                        first = shrink * shrink  # derivatives of the log slope
                        second = -two / limit * first * shrink * (one if raw > 0 else -one)
                        turn = first * tangents[log_slope, c]
                        moved = tangent[d, c] + x[d, c] * turn
                        after[d, c] = steep[d, c] * moved + tangents[shift, c]
                        pull = above[d, c] * steep[d, c]
                        back = gradient[d, c] / steep[d, c] + above[d, c] * turn
                        before[d, c] = back
                        gradients[shift, c] = -back
                        gradients[log_slope, c] = (
                            pull * moved * first
                            + (pull * x[d, c] + one) * second * tangents[log_slope, c]
                            - back * x[d, c] * steep[d, c] * first
                        )
                _retreat(g, own, gradients, flat, plan)
            grad_terms[i * hidden : (i + 1) * hidden, begin:end] = gradients[:hidden, : end - begin]
            grad_flat = grad_weights[i * starts[-1] : (i + 1) * starts[-1]]
            _add_weights(x, tangent, own, tangents, score[t, i], gradients, grad_flat, plan)
            for r in range(hidden, rows[-1]):
                grad_biases[i * (rows[-1] - hidden) + r - hidden] += gradients[r].sum()
            tangent[:] = after[::-1]
            gradient[:] = before[::-1]
    return grad_terms, gradient_of_all


@njit(cache=True, fastmath=FLAGS)
def _advance(g, theta, layers, gate, flat, plan):  # type: ignore[no-untyped-def]
    """Compute the rows of group g in all layers, which hold what is to be added."""
    ends, rows, shapes, starts, _ = plan
    below, seen = theta, ends[0, g]
    for i in range(len(shapes)):
        start, stop = ends[i + 1, g], ends[i + 1, g + 1]
        weight = flat[starts[i] : starts[i + 1]].reshape(shapes[i, 0], shapes[i, 1])
        layer = layers[rows[i] : rows[i + 1]]
        add_product(layer[start:stop], weight[start:stop, :seen], below)
        if i + 1 < len(shapes):
            close(layer[start:stop], gate[rows[i] + start : rows[i] + stop])
        below, seen = layer, stop


@njit(cache=True, fastmath=FLAGS)
def _retreat(g, layers, gradients, flat, plan):  # type: ignore[no-untyped-def]
    """Compute the rows of group g in the gradients of all layers but the last."""
    ends, rows, shapes, starts, _ = plan
    for i in range(len(shapes) - 1, 0, -1):
        start, stop = ends[i, g], ends[i, g + 1]
        weight = flat[starts[i] : starts[i + 1]].reshape(shapes[i, 0], shapes[i, 1])
        seeing = ends[i + 1, g]  # and all rows after it
        above = gradients[rows[i] + seeing : rows[i + 1]]
        layer = gradients[rows[i - 1] + start : rows[i - 1] + stop]
        layer[:] = 0
        add_product(layer, weight[seeing:, start:stop].T, above)
        close(layer, layers[rows[i - 1] + start : rows[i - 1] + stop])


@njit(cache=True, fastmath=FLAGS)
def _to_coordinates(g, theta, gradients, flat, plan):  # type: ignore[no-untyped-def]
    """Add what comes from the first layer to the gradients of the coordinates of group g."""
    ends, rows, shapes, starts, _ = plan
    if g + 2 < ends.shape[1]:  # nobody sees the last group
        weight = flat[: starts[1]].reshape(shapes[0, 0], shapes[0, 1])
        start, stop, seeing = ends[0, g], ends[0, g + 1], ends[1, g + 1]
        above = gradients[seeing : rows[1]]
        add_product(theta[start:stop], weight[seeing:, start:stop].T, above)


@njit(cache=True, fastmath=FLAGS)
def _add_weights(  # type: ignore[no-untyped-def]
    theta, tangent, layers, tangents, score, gradients, grad_flat, plan
):
    """Add the gradients of all weights: of values times gradients, and of tangents times scores."""
    _, rows, shapes, starts, seen = plan
    below, moved = theta, tangent
    for i in range(len(shapes)):
        grad = grad_flat[starts[i] : starts[i + 1]].reshape(shapes[i, 0], shapes[i, 1])
        above, scores = gradients[rows[i] : rows[i + 1]], score[rows[i] : rows[i + 1]]
        add_outer_products(grad, seen[rows[i] : rows[i + 1]], above, below, scores, moved)
        below, moved = layers[rows[i] : rows[i + 1]], tangents[rows[i] : rows[i + 1]]


_announced_forward = announced(_forward, "the scores of samples")
_announced_backward = announced(_backward, "the gradient of the scores of samples")
