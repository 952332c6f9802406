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
from torch import Tensor
from torch.autograd.function import once_differentiable

from robust_npe.compiling import announced
from robust_npe.estimators.conditioner import Conditioner
from robust_npe.estimators.univariate import MIN_SLOPE

__all__ = ["sampled_score"]

TILE = 64  # columns
LIMIT = -math.log(MIN_SLOPE)  # of the log slope, as in `Affine`
Plan = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
FLAGS = {"contract", "reassoc", "nsz", "arcp"}  # non-finite numbers keep their meaning


def sampled_score(conditioners: Sequence[Conditioner], terms: Tensor, z: Tensor) -> Tensor:
    """Return the gradient of log q(theta) with respect to the context terms, at theta = f^-1(z).

    Args:
        conditioners: The T conditioners of an affine flow, in the order from theta to z.
        terms: Context terms of all of them, `(T * H, N)`.
        z: Base noise of shape `(D, N)`.

    Returns:
        Shape `(T * H, N)`, differentiable once with respect to the weights and the context terms.
    """
    weights = torch.cat([w.reshape(-1) for net in conditioners for w in net.weights()])
    biases = torch.cat([b for net in conditioners for b in net.biases()])
    return _SampledScore.apply(_plan(conditioners[0]), z, terms, weights, biases)


def _plan(net: Conditioner) -> Plan:
    """Return where the kernels find things.

    Returns:
        ends: Where the rows of each group end, for the coordinates and each layer,
            `(L + 1, G + 1)`.
        rows: Where each layer starts among the rows of all layers, `(L + 1,)`.
        shapes: Of the weights of each layer, `(L, 2)`.
        starts: Where they start among all weights, `(L + 1,)`.
    """
    levels = range(len(net.groups[0]))
    ends = np.array([[0, *(group[i].stop for group in net.groups)] for i in levels])
    shapes = np.stack([ends[1:, -1], [ends[0, -2], *ends[1:-1, -1]]], axis=1)
    rows = np.array([0, *shapes[:, 0].cumsum()])
    return ends, rows, shapes, np.array([0, *shapes.prod(axis=1).cumsum()])


class _SampledScore(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: Plan, *tensors: Tensor) -> Tensor:
        z, terms, *parameters = (tensor.detach().contiguous().numpy() for tensor in tensors)
        ctx.plan, ctx.weights = plan, parameters[0]
        scores, *ctx.saved = _announced_forward(z, terms, *parameters, plan)
        return torch.from_numpy(scores)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        v = cotangent.contiguous().numpy()
        gradients = _announced_backward(v, *ctx.saved, ctx.weights, ctx.plan)
        return None, None, *(torch.from_numpy(gradient) for gradient in gradients)


@njit(cache=True, fastmath=FLAGS)
def _forward(z, terms, weights, biases, plan):  # type: ignore[no-untyped-def]
    """Return the scores, and what is needed again, tile by tile.

    Returns:
        scores: `(T * H, N)`.
        theta: What goes into each transform, `(N / n, T, D, n)`.
        adjoint: Gradient of log q with respect to what comes out of it, same shape.
        layers: Activations of its conditioner, those of the last layer being the outputs,
            `(N / n, T, M, n)`.
        score: Gradients with respect to all layers before their nonlinearity, same shape.
    """
    one, limit = z.dtype.type(1), z.dtype.type(LIMIT)
    ends, rows, _, starts = plan
    dim, columns = z.shape
    width = min(TILE, columns)
    tiles, hidden, last = (columns + width - 1) // width, rows[1], rows[-2]
    transforms = len(terms) // hidden
    scores = np.empty_like(terms)
    theta = np.empty((tiles, transforms, dim, width), z.dtype)
    adjoint = np.zeros_like(theta)
    layers = np.empty((tiles, transforms, rows[-1], width), z.dtype)
    score = np.empty_like(layers)
    value, below = np.zeros((dim, width), z.dtype), np.empty((dim, width), z.dtype)
    for t in range(tiles):
        begin, end = t * width, min((t + 1) * width, columns)
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
                    for c in range(width):
                        rate = log_slope[c] / (one + abs(log_slope[c]) / limit)
                        x[d, c] = (value[d, c] - shift[c]) * math.exp(-rate)
            for g in range(ends.shape[1] - 2, -1, -1):
                for d in range(ends[0, g], ends[0, g + 1]):
                    shift, log_slope = last + 2 * d, last + 2 * d + 1
                    for c in range(width):
                        shrink = one / (one + abs(own[log_slope, c]) / limit)
                        pull = above[d, c] * math.exp(own[log_slope, c] * shrink)
                        below[d, c] = pull
                        gradient[shift, c] = above[d, c]
                        gradient[log_slope, c] = (pull * x[d, c] + one) * shrink * shrink
                _retreat(g, own, gradient, flat, plan)
                _to_coordinates(g, below, gradient, flat, plan)
            scores[i * hidden : (i + 1) * hidden, begin:end] = gradient[:hidden, : end - begin]
            if i:
                value[:] = x[::-1]
                adjoint[t, i - 1] = below[::-1]
    return scores, theta, adjoint, layers, score


@njit(cache=True, fastmath=FLAGS)
def _backward(v, theta, adjoint, layers, score, weights, plan):  # type: ignore[no-untyped-def]
    """Return the gradients of <v, s> with respect to context terms, weights and biases."""
    one, two, limit = v.dtype.type(1), v.dtype.type(2), v.dtype.type(LIMIT)
    ends, rows, _, starts = plan
    tiles, transforms, dim, width = theta.shape
    hidden, last = rows[1], rows[-2]
    grad_terms, grad_weights = np.empty_like(v), np.zeros_like(weights)
    grad_biases = np.zeros(transforms * (rows[-1] - hidden), v.dtype)
    # of what goes into a transform and of what comes out of it
    tangent, after = np.zeros((dim, width), v.dtype), np.empty((dim, width), v.dtype)
    gradient, before = np.zeros((dim, width), v.dtype), np.empty((dim, width), v.dtype)
    tangents, gradients = np.empty_like(layers[0, 0]), np.empty_like(layers[0, 0])
    for t in range(tiles):
        begin, end = t * width, min((t + 1) * width, v.shape[1])
        tangent[:] = 0
        gradient[:] = 0
        for i in range(transforms):
            x, above, own = theta[t, i], adjoint[t, i], layers[t, i]
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
                        slope = math.exp(raw * shrink)
                        turn = first * tangents[log_slope, c]
                        moved = tangent[d, c] + x[d, c] * turn
                        after[d, c] = slope * moved + tangents[shift, c]
                        pull = above[d, c] * slope
                        back = gradient[d, c] / slope + above[d, c] * turn
                        before[d, c] = back
                        gradients[shift, c] = -back
                        gradients[log_slope, c] = (
                            pull * moved * first
                            + (pull * x[d, c] + one) * second * tangents[log_slope, c]
                            - back * x[d, c] * slope * first
                        )
                _retreat(g, own, gradients, flat, plan)
            grad_terms[i * hidden : (i + 1) * hidden, begin:end] = gradients[:hidden, : end - begin]
            grad_flat = grad_weights[i * starts[-1] : (i + 1) * starts[-1]]
            _add_weights(x, tangent, own, tangents, score[t, i], gradients, grad_flat, plan)
            for r in range(hidden, rows[-1]):
                grad_biases[i * (rows[-1] - hidden) + r - hidden] += gradients[r].sum()
            tangent[:] = after[::-1]
            gradient[:] = before[::-1]
    return grad_terms, grad_weights, grad_biases


@njit(cache=True, fastmath=FLAGS)
def _advance(g, theta, layers, gate, flat, plan):  # type: ignore[no-untyped-def]
    """Compute the rows of group g in all layers, which hold what is to be added."""
    ends, rows, shapes, starts = plan
    below, seen = theta, ends[0, g]
    for i in range(len(shapes)):
        start, stop = ends[i + 1, g], ends[i + 1, g + 1]
        weight = flat[starts[i] : starts[i + 1]].reshape(shapes[i, 0], shapes[i, 1])
        layer = layers[rows[i] : rows[i + 1]]
        _add_product(layer[start:stop], weight[start:stop, :seen], below[:seen], layer.shape[1])
        if i + 1 < len(shapes):
            _close(layer, gate[rows[i] : rows[i + 1]], start, stop)
        below, seen = layer, stop


@njit(cache=True, fastmath=FLAGS)
def _retreat(g, layers, gradients, flat, plan):  # type: ignore[no-untyped-def]
    """Compute the rows of group g in the gradients of all layers but the last."""
    ends, rows, shapes, starts = plan
    for i in range(len(shapes) - 1, 0, -1):
        start, stop = ends[i, g], ends[i, g + 1]
        weight = flat[starts[i] : starts[i + 1]].reshape(shapes[i, 0], shapes[i, 1])
        seeing = ends[i + 1, g]  # and all rows after it
        above = gradients[rows[i] + seeing : rows[i + 1]]
        layer = gradients[rows[i - 1] : rows[i]]
        layer[start:stop] = 0
        _add_product(layer[start:stop], weight[seeing:, start:stop].T, above, layer.shape[1])
        _close(layer, layers[rows[i - 1] : rows[i]], start, stop)


@njit(cache=True, fastmath=FLAGS)
def _to_coordinates(g, theta, gradients, flat, plan):  # type: ignore[no-untyped-def]
    """Add what comes from the first layer to the gradients of the coordinates of group g."""
    ends, rows, shapes, starts = plan
    if g + 2 < ends.shape[1]:  # nobody sees the last group
        weight = flat[: starts[1]].reshape(shapes[0, 0], shapes[0, 1])
        start, stop, seeing = ends[0, g], ends[0, g + 1], ends[1, g + 1]
        above = gradients[seeing : rows[1]]
        _add_product(theta[start:stop], weight[seeing:, start:stop].T, above, theta.shape[1])


@njit(cache=True, fastmath=FLAGS)
def _close(layer, gate, start, stop):  # type: ignore[no-untyped-def]
    """Set to zero where a nonlinearity is closed."""
    zero = layer.dtype.type(0)
    for r in range(start, stop):
        for c in range(layer.shape[1]):
            value = layer[r, c]  # read in any case, so that no branch is needed
            layer[r, c] = zero if gate[r, c] <= zero else value


@njit(cache=True, fastmath=FLAGS)
def _add_weights(  # type: ignore[no-untyped-def]
    theta, tangent, layers, tangents, score, gradients, grad_flat, plan
):
    """Add the gradients of all weights: of values times gradients, and of tangents times scores."""
    ends, rows, shapes, starts = plan
    below, moved = theta, tangent
    for i in range(len(shapes)):
        grad = grad_flat[starts[i] : starts[i + 1]].reshape(shapes[i, 0], shapes[i, 1])
        values, changes = below.T.copy(), moved.T.copy()
        for g in range(ends.shape[1] - 1):
            start, stop = ends[i + 1, g], ends[i + 1, g + 1]
            seen = ends[i, g + 1] if i else ends[0, g]
            block = slice(rows[i] + start, rows[i] + stop)
            _add_product(grad[start:stop], gradients[block], values, seen)
            _add_product(grad[start:stop], score[block], changes, seen)
        below, moved = layers[rows[i] : rows[i + 1]], tangents[rows[i] : rows[i + 1]]


@njit(cache=True, fastmath=FLAGS)
def _add_product(out, w, a, width):  # type: ignore[no-untyped-def]
    """out[:, :width] += w @ a[:, :width], in blocks of four by four."""
    height, depth = w.shape
    r = 0
    while r + 4 <= height:
        j = 0
        while j + 4 <= depth:
            w00, w01, w02, w03 = w[r, j], w[r, j + 1], w[r, j + 2], w[r, j + 3]
            w10, w11, w12, w13 = w[r + 1, j], w[r + 1, j + 1], w[r + 1, j + 2], w[r + 1, j + 3]
            w20, w21, w22, w23 = w[r + 2, j], w[r + 2, j + 1], w[r + 2, j + 2], w[r + 2, j + 3]
            w30, w31, w32, w33 = w[r + 3, j], w[r + 3, j + 1], w[r + 3, j + 2], w[r + 3, j + 3]
            for c in range(width):
                a0, a1, a2, a3 = a[j, c], a[j + 1, c], a[j + 2, c], a[j + 3, c]
                out[r, c] += w00 * a0 + w01 * a1 + w02 * a2 + w03 * a3
                out[r + 1, c] += w10 * a0 + w11 * a1 + w12 * a2 + w13 * a3
                out[r + 2, c] += w20 * a0 + w21 * a1 + w22 * a2 + w23 * a3
                out[r + 3, c] += w30 * a0 + w31 * a1 + w32 * a2 + w33 * a3
            j += 4
        while j < depth:
            w00, w10, w20, w30 = w[r, j], w[r + 1, j], w[r + 2, j], w[r + 3, j]
            for c in range(width):
                a0 = a[j, c]
                out[r, c] += w00 * a0
                out[r + 1, c] += w10 * a0
                out[r + 2, c] += w20 * a0
                out[r + 3, c] += w30 * a0
            j += 1
        r += 4
    while r < height:
        j = 0
        while j + 4 <= depth:
            w00, w01, w02, w03 = w[r, j], w[r, j + 1], w[r, j + 2], w[r, j + 3]
            for c in range(width):
                out[r, c] += (
                    w00 * a[j, c] + w01 * a[j + 1, c] + w02 * a[j + 2, c] + w03 * a[j + 3, c]
                )
            j += 4
        while j < depth:
            w00 = w[r, j]
            for c in range(width):
                out[r, c] += w00 * a[j, c]
            j += 1
        r += 1


_announced_forward = announced(_forward, "the scores of samples")
_announced_backward = announced(_backward, "the gradient of the scores of samples")
