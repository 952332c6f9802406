"""Densities and samples of an autoregressive flow; `docs/kernels.md`, sections 1 to 3, 7 and 8.

Columns, one for each pair of a sample and an observation, go in tiles that fit into the cache:
most of the time of a large batch is spent on moving activations in and out of it. Where a spline
follows the affine function, `spline` is not None.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from robust_npe.compiling import log_compilation, watch_sources
from robust_npe.estimators.kernels import affine_score_kernels as affine
from robust_npe.estimators.kernels import network_kernels, score_kernels, spline_kernels
from robust_npe.estimators.kernels import spline_score_kernels as splines
from robust_npe.estimators.kernels import spline_value_kernels as spline_values
from robust_npe.estimators.kernels.network_kernels import (
    activate,
    add_direct_products,
    add_outer_products,
    apply_slope,
)
from robust_npe.estimators.kernels.score_kernels import (
    between,
    invert,
    saved_height,
    score_outputs,
    split_rows,
    store_terms,
)

__all__ = ["densities", "samples", "weigh"]

TILE = 320  # columns at most
FLAGS = {"contract", "reassoc", "nsz", "arcp"}  # non-finite numbers keep their meaning


@njit(cache=True, fastmath=FLAGS)
def _densities(theta, c, V, W, b, layout, limit, spline, sloped, trained):  # type: ignore[no-untyped-def]
    """Return log q(theta) and, if wanted, its gradients.

    Args:
        theta: `(D, S * B)`.
        c: Terms of B observations in first layers, then in outputs, `(T * (H + 2 D), B)`.
        V: Direct connections to coordinates, masked, `(T, 2 D, D - n)` for n that nobody sees.
        W: Weights of all transforms and layers, masked.
        b: Biases of all transforms, and of all layers but the first.
        layout: See `Blocks`.
        limit: Of |alpha|.
        spline: Bound of the splines, and limit of |log sizes| of their bins; None if affine.
        sloped: Whether gradients are wanted.
        trained: Whether those of the weights are, by `weigh`.

    Returns:
        log_prob: `(S * B,)`.
        pull: Gradient of each with respect to theta, `(D, S * B)`; empty if not wanted.
        s: Likewise, to the terms, `(T * (H + 2 D), S * B)`; empty if `weigh` is to follow.
        saved: What `weigh` needs, see `split_rows`, `(tiles, T, rows, n)`.
    """
    _, rows, _, starts = layout
    D, N = theta.shape
    H, M, size, limit = rows[1], rows[-1], starts[-1], theta.dtype.type(limit)
    T, P, width = len(V), (rows[-1] - rows[-2]) // D, _width(N)
    log_prob = np.empty(N, theta.dtype)
    pulls = np.empty((D, N if sloped else 0), theta.dtype)
    scores = np.empty((len(c), N if sloped and not trained else 0), theta.dtype)
    tiles = max(1, -(-N // width)) if trained else 1
    saved = np.empty((tiles, T, saved_height(D, rows, spline), width), theta.dtype)
    z = np.zeros((D, width), theta.dtype)
    for begin in range(0, N, width):
        end, tile = min(begin + width, N), saved[begin // width if trained else 0]
        z[:, : end - begin] = theta[:, begin:end]
        total = np.full(width, theta.dtype.type(-0.5 * D * math.log(2 * math.pi)))
        for t in range(T):
            Wt, bt = W[t * size : (t + 1) * size], b[t * (M - H) : (t + 1) * (M - H)]
            x, _, _, h, _, _ = part = split_rows(tile[t], D, M)
            x[:] = z[::-1] if t else z
            direct = T * H + t * 2 * D
            terms = c[t * H : (t + 1) * H], c[direct : direct + 2 * D]
            _evaluate(x, terms, begin, h, V[t], Wt, bt, layout)
            _transform(part, z, total, h[rows[-2] :], limit, spline)
        _add_normal(total, z)
        log_prob[begin:end] = total[: end - begin]
        pull = -z
        for t in range(T - 1, -1, -1) if sloped else range(0, 0):
            _, _, u, _, s, _ = part = split_rows(tile[t], D, M)
            u[:] = pull
            below = _score(part, V[t], W[t * size : (t + 1) * size], layout, limit, spline)
            pull[:] = below[::-1] if t else below
            if not trained:
                store_terms(scores, s[:, : end - begin], begin, t, T, H, P, D)
        if sloped:
            pulls[:, begin:end] = pull[:, : end - begin]
    return log_prob, pulls, scores, saved


@njit(cache=True, fastmath=FLAGS)
def _weigh(weights, saved, V, W, layout):  # type: ignore[no-untyped-def]
    """Return the gradients of a weighted sum of log densities.

    Args:
        weights: Of the columns, `(S * B,)`.
        saved: From `_densities`, as the others.

    Returns:
        c_bar: Each column's, `(T * (H + 2 D), S * B)`.
        V_bar: `(T, 2 D, D - n)`.
        W_bar and b_bar: One after the other.
    """
    _, rows, _, starts = layout
    tiles, T, _, width = saved.shape
    D, N = layout[0][0, -1], len(weights)
    H, M, size, P = rows[1], rows[-1], starts[-1], (rows[-1] - rows[-2]) // D
    c_bar, V_bar = np.empty((T * (H + 2 * D), N), saved.dtype), np.zeros_like(V)
    parameters_bar = np.zeros(len(W) + T * (M - H), saved.dtype)
    W_bar, b_bar = parameters_bar[: len(W)], parameters_bar[len(W) :]
    own = np.zeros(width, saved.dtype)
    for k in range(tiles):
        begin, end = min(k * width, N), min((k + 1) * width, N)
        own[: end - begin], own[end - begin :] = weights[begin:end], 0
        for t in range(T):
            x, _, _, h, s, _ = split_rows(saved[k, t], D, M)
            a_bar = s * own
            store_terms(c_bar, a_bar[:, : end - begin], begin, t, T, H, P, D)
            add_direct_products(V_bar[t], a_bar[rows[-2] :], x, layout)
            add_outer_products(W_bar[t * size : (t + 1) * size], a_bar, x, h, layout)
            for r in range(H, M):
                b_bar[t * (M - H) + r - H] += a_bar[r].sum()
    return c_bar, V_bar, parameters_bar


@njit(cache=True, fastmath=FLAGS)
def _samples(z, c, V, W, b, layout, limit, spline):  # type: ignore[no-untyped-def]
    """Return theta `(D, S * B)` of the noise z `(D, S * B)`, and its log density `(S * B,)`; other
    arguments as for `_densities`."""
    _, rows, _, starts = layout
    D, N = z.shape
    H, M, size, limit = rows[1], rows[-1], starts[-1], z.dtype.type(limit)
    T, width = len(V), _width(N)
    theta, log_prob = np.empty_like(z), np.empty(N, z.dtype)
    part = split_rows(np.empty((saved_height(D, rows, spline), width), z.dtype), D, M)
    x, h, rest = part[0], part[3], part[5]
    out, terms = np.zeros((D, width), z.dtype), np.empty((2 * D, width), z.dtype)
    for begin in range(0, N, width):
        end = min(begin + width, N)
        out[:, : end - begin] = z[:, begin:end]
        total = np.full(width, z.dtype.type(-0.5 * D * math.log(2 * math.pi)))
        _add_normal(total, out)
        for t in range(T - 1, -1, -1):
            Wt, bt = W[t * size : (t + 1) * size], b[t * (M - H) : (t + 1) * (M - H)]
            h[:H], terms[:] = 0, 0
            _add_terms(h[:H], c[t * H : (t + 1) * H], begin)
            _add_terms(terms, c[T * H + t * 2 * D : T * H + (t + 1) * 2 * D], begin)
            invert(out, part, terms, V[t], Wt, bt, layout, limit, spline)
            affine.add_log_slope(total, x, h[rows[-2] :], limit)
            if spline is not None:
                spline_values.add_log_slope(total, between(rest, D)[1])
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
    P = len(below) // len(x)
    direct = np.dot(V, x[: V.shape[1]]) if V.size else np.zeros((len(V), x.shape[1]), x.dtype)
    _add_terms(direct, terms[1], begin)
    for r in range(len(V)):
        below[r // 2 * P + r % 2] += direct[r]


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
def _transform(part, z, total, outputs, limit, spline):  # type: ignore[no-untyped-def]
    """Compute z = f(x) and its slope, whose logarithm is added to the total of each column."""
    x, slope, _, _, _, rest = part
    affine.transform(x, z, slope, total, outputs, limit)
    if spline is not None:
        y, y_slope, _, curves = between(rest, len(x))
        y[:] = z
        spline_values.transform(y, z, y_slope, outputs, curves, limit, spline)
        spline_values.add_log_slope(total, y_slope)


@njit(cache=True, fastmath=FLAGS)
def _score(part, V, W, layout, limit, spline):  # type: ignore[no-untyped-def]
    """Compute s, and return the gradient of log q with respect to x (section 3)."""
    _, rows, shapes, starts = layout
    x, _, _, h, s, _ = part
    below, last = score_outputs(part, rows[-2], limit, spline), s[rows[-2] :]
    for i in range(len(shapes) - 1, 0, -1):
        weight = W[starts[i] : starts[i + 1]].reshape(shapes[i, 0], shapes[i, 1])
        new = s[rows[i - 1] : rows[i]]
        np.dot(weight.T, s[rows[i] : rows[i + 1]], new)
        apply_slope(new, h[rows[i - 1] : rows[i]])
    if V.size:
        P = len(last) // len(x)
        direct = np.empty((len(V), last.shape[1]), last.dtype)
        for r in range(len(V)):
            direct[r] = last[r // 2 * P + r % 2]
        below[: V.shape[1]] += np.dot(V.T, direct)
    if starts[1]:
        weight = W[: starts[1]].reshape(shapes[0, 0], shapes[0, 1])
        below[: shapes[0, 1]] += np.dot(weight.T, s[: rows[1]])
    return below


@njit(cache=True, fastmath=FLAGS)
def _add_normal(total, z):  # type: ignore[no-untyped-def]
    for d in range(len(z)):
        for n in range(z.shape[1]):
            total[n] -= z[d, n] * z[d, n] / 2


for _kernel in (_densities, _weigh, _samples):
    watch_sources(
        _kernel, network_kernels, score_kernels, affine, splines, spline_values, spline_kernels
    )
densities = log_compilation(_densities, "the densities of a flow")
weigh = log_compilation(_weigh, "the gradient of a flow's densities")
samples = log_compilation(_samples, "the samples of a flow")
