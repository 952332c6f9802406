"""Densities and samples of an affine autoregressive flow; `docs/kernels.md`, sections 1 to 3.

Columns, one for each pair of a sample and an observation, go in tiles that fit into the cache:
most of the time of a large batch is spent on moving activations in and out of it.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from robust_npe.compiling import log_compilation, watch_sources
from robust_npe.estimators.kernels import affine_score_kernels, network_kernels
from robust_npe.estimators.kernels.affine_score_kernels import invert, score
from robust_npe.estimators.kernels.network_kernels import (
    activate,
    add_direct,
    advance,
    apply_slope,
)

__all__ = ["densities", "samples"]

TILE = 320  # columns at most
FLAGS = {"contract", "reassoc", "nsz", "arcp"}  # non-finite numbers keep their meaning


@njit(cache=True, fastmath=FLAGS)
def _densities(theta, c, V, W, b, layout, limit, sloped):  # type: ignore[no-untyped-def]
    """Return log q(theta) and, if wanted, its gradients.

    Args:
        theta: `(D, S * B)`.
        c: Terms of B observations in first layers, then in outputs, `(T * (H + 2 D), B)`.
        V: Direct connections to coordinates, masked, `(T, 2 D, D - n)` for n that nobody sees.
        W: Weights of all transforms and layers, masked.
        b: Biases of all transforms, and of all layers but the first.
        layout: See `Blocks`.
        limit: Of |alpha|.
        sloped: Whether gradients are wanted.

    Returns:
        log_prob: `(S * B,)`.
        pull: Gradient of each with respect to theta, `(D, S * B)`; empty if not wanted.
        s: Likewise, to the terms, `(T * (H + 2 D), S * B)`.
    """
    _, rows, _, starts = layout
    D, N = theta.shape
    H, M, size, limit = rows[1], rows[-1], starts[-1], theta.dtype.type(limit)
    T, width = len(V), _width(N)
    log_prob = np.empty(N, theta.dtype)
    pulls = np.empty((D, N if sloped else 0), theta.dtype)
    scores = np.empty((len(c), N if sloped else 0), theta.dtype)
    x, slope = np.empty((T, D, width), theta.dtype), np.empty((T, D, width), theta.dtype)
    h, s = np.empty((T, M, width), theta.dtype), np.empty((M, width), theta.dtype)
    z = np.zeros((D, width), theta.dtype)
    for begin in range(0, N, width):
        end = min(begin + width, N)
        z[:, : end - begin] = theta[:, begin:end]
        total = np.full(width, theta.dtype.type(-0.5 * D * math.log(2 * math.pi)))
        for t in range(T):
            Wt, bt = W[t * size : (t + 1) * size], b[t * (M - H) : (t + 1) * (M - H)]
            x[t] = z[::-1] if t else z
            direct = T * H + t * 2 * D
            terms = c[t * H : (t + 1) * H], c[direct : direct + 2 * D]
            _evaluate(x[t], terms, begin, h[t], V[t], Wt, bt, layout)
            _transform(x[t], z, slope[t], total, h[t, rows[-2] :], limit)
        _add_normal(total, z)
        log_prob[begin:end] = total[: end - begin]
        pull = -z
        for t in range(T - 1, -1, -1) if sloped else range(0, 0):
            Wt = W[t * size : (t + 1) * size]
            below = _score(x[t], slope[t], pull, h[t], s, V[t], Wt, layout, limit)
            pull[:] = below[::-1] if t else below
            direct = T * H + t * 2 * D
            scores[t * H : (t + 1) * H, begin:end] = s[:H, : end - begin]
            scores[direct : direct + 2 * D, begin:end] = s[rows[-2] :, : end - begin]
        if sloped:
            pulls[:, begin:end] = pull[:, : end - begin]
    return log_prob, pulls, scores


@njit(cache=True, fastmath=FLAGS)
def _samples(z, c, V, W, b, layout, limit):  # type: ignore[no-untyped-def]
    """Return theta `(D, S * B)` of the noise z `(D, S * B)`, and its log density `(S * B,)`; other
    arguments as for `_densities`."""
    ends, rows, _, starts = layout
    D, N = z.shape
    H, M, size, limit = rows[1], rows[-1], starts[-1], z.dtype.type(limit)
    T, width = len(V), _width(N)
    theta, log_prob = np.empty_like(z), np.empty(N, z.dtype)
    x, slope = np.empty((D, width), z.dtype), np.empty((D, width), z.dtype)
    h, out = np.empty((M, width), z.dtype), np.zeros((D, width), z.dtype)
    terms = np.empty((2 * D, width), z.dtype)
    for begin in range(0, N, width):
        end = min(begin + width, N)
        out[:, : end - begin] = z[:, begin:end]
        total = np.full(width, z.dtype.type(-0.5 * D * math.log(2 * math.pi)))
        _add_normal(total, out)
        for t in range(T - 1, -1, -1):
            Wt, bt = W[t * size : (t + 1) * size], b[t * (M - H) : (t + 1) * (M - H)]
            h[:H] = 0
            terms[:] = 0
            _add_terms(h[:H], c[t * H : (t + 1) * H], begin)
            _add_terms(terms, c[T * H + t * 2 * D : T * H + (t + 1) * 2 * D], begin)
            outputs = h[rows[-2] :]
            for g in range(ends.shape[1] - 1):
                advance(g, x, h, None, Wt, bt, layout)
                group = ends[0, g], ends[0, g + 1]
                add_direct(group, x, outputs, terms, V[t])
                invert(group, out, x, slope, outputs, limit)
            for d in range(D):
                for n in range(width):
                    raw = outputs[2 * d + 1, n]
                    total[n] += raw * limit / (limit + abs(raw))
            out[:] = x[::-1] if t else x
        theta[:, begin:end] = out[:, : end - begin]
        log_prob[begin:end] = total[: end - begin]
    return theta, log_prob


@njit(cache=True, fastmath=FLAGS)
def _width(columns):  # type: ignore[no-untyped-def]
    """Return the width of tiles of nearly the same size."""
    tiles = max(1, -(-columns // TILE))
    return max(1, -(-columns // tiles))


@njit(cache=True, fastmath=FLAGS)
def _evaluate(x, terms, begin, h, V, W, b, layout):  # type: ignore[no-untyped-def]
    """Compute all layers h at x, in products of whole layers: faster here than group by group."""
    _, rows, shapes, starts = layout
    below = x[: shapes[0, 1]]
    for i in range(len(shapes)):
        weight = W[starts[i] : starts[i + 1]].reshape(shapes[i, 0], shapes[i, 1])
        layer = h[rows[i] : rows[i + 1]]
        if weight.size:
            np.dot(weight, below, layer)
        else:
            layer[:] = 0
        if i == 0:
            _add_terms(layer, terms[0], begin)
            activate(layer)
        else:
            layer += b[rows[i] - rows[1] : rows[i + 1] - rows[1]].reshape(-1, 1)
            if i + 1 < len(shapes):
                activate(layer)
        below = layer
    _add_terms(below, terms[1], begin)
    if V.size:
        below += np.dot(V, x[: V.shape[1]])


@njit(cache=True, fastmath=FLAGS)
def _add_terms(layer, c, begin):  # type: ignore[no-untyped-def]
    """Add the context terms of the columns from `begin`; observations repeat, sample by sample."""
    B, start = c.shape[1], 0
    while start < layer.shape[1]:
        first = (begin + start) % B
        count = min(B - first, layer.shape[1] - start)
        for r in range(len(layer)):
            for n in range(count):
                layer[r, start + n] += c[r, first + n]
        start += count


@njit(cache=True, fastmath=FLAGS)
def _transform(x, z, slope, total, outputs, limit):  # type: ignore[no-untyped-def]
    """Compute z = f(x) and its slope, whose logarithm is added to the total of each column."""
    for d in range(len(x)):
        shift, raw = outputs[2 * d], outputs[2 * d + 1]
        for n in range(x.shape[1]):
            slope[d, n] = raw[n] * limit / (limit + abs(raw[n]))
            total[n] += slope[d, n]
        for n in range(x.shape[1]):  # on its own: a call keeps loops from being vectorised
            slope[d, n] = math.exp(slope[d, n])
        for n in range(x.shape[1]):
            z[d, n] = slope[d, n] * x[d, n] + shift[n]


@njit(cache=True, fastmath=FLAGS)
def _score(x, slope, u, h, s, V, W, layout, limit):  # type: ignore[no-untyped-def]
    """Compute s, and return the gradient of log q with respect to x (section 3)."""
    _, rows, shapes, starts = layout
    below = score(s[rows[-2] :], x, slope, u, h[rows[-2] :], limit)
    for i in range(len(shapes) - 1, 0, -1):
        weight = W[starts[i] : starts[i + 1]].reshape(shapes[i, 0], shapes[i, 1])
        new = s[rows[i - 1] : rows[i]]
        np.dot(weight.T, s[rows[i] : rows[i + 1]], new)
        apply_slope(new, h[rows[i - 1] : rows[i]])
    if V.size:
        below[: V.shape[1]] += np.dot(V.T, s[rows[-2] :])
    if starts[1]:
        weight = W[: starts[1]].reshape(shapes[0, 0], shapes[0, 1])
        below[: shapes[0, 1]] += np.dot(weight.T, s[: rows[1]])
    return below


@njit(cache=True, fastmath=FLAGS)
def _add_normal(total, z):  # type: ignore[no-untyped-def]
    for d in range(len(z)):
        for n in range(z.shape[1]):
            total[n] -= z[d, n] * z[d, n] / 2


for _kernel in (_densities, _samples):
    watch_sources(_kernel, network_kernels, affine_score_kernels)
densities = log_compilation(_densities, "the densities of a flow")
samples = log_compilation(_samples, "the samples of a flow")
