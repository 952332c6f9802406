"""Scores of an autoregressive flow and their gradient; `docs/kernels.md`, sections 1 to 4, 7 and 8.

Columns, one for each sample, go in tiles that fit into the cache. What depends on the univariate
transform is in `affine_score_kernels` and, where a spline follows (`spline` is not None), in
`spline_score_kernels`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from robust_npe.compiling import log_compilation, watch_sources
from robust_npe.estimators.kernels import affine_score_kernels as affine
from robust_npe.estimators.kernels import network_kernels, spline_kernels
from robust_npe.estimators.kernels import spline_score_kernels as splines
from robust_npe.estimators.kernels import spline_value_kernels as spline_values
from robust_npe.estimators.kernels.network_kernels import (
    add_direct,
    add_direct_products,
    add_outer_products,
    add_to_inputs,
    advance,
    pull_direct,
    retreat,
)

__all__ = [
    "TILE",
    "backward",
    "between",
    "forward",
    "invert",
    "saved_height",
    "score_outputs",
    "split_rows",
    "store_terms",
]

TILE = 320  # columns at most, so that their activations fit into the second cache
FLAGS = {"contract", "reassoc", "nsz", "arcp"}  # non-finite numbers keep their meaning


@njit(cache=True, fastmath=FLAGS)
def _forward(z, c, V, W, b, layout, limit, spline):  # type: ignore[no-untyped-def]
    """Return the scores (sections 2 and 3), and what is needed again, in tiles of n columns.

    Args:
        z: `(D, N)`.
        c: Context terms of first layers, then of direct connections, `(T * (H + 2 D), N)`.
        V: Direct connections to coordinates, `(T, 2 D, D - n)` for the n that nobody sees.
        W: Weights of all transforms and layers.
        b: Biases of all transforms, and of all layers but the first.
        layout: See `Blocks`.
        limit: Of |log slope|.
        spline: Bound of the splines, and limit of |log sizes| of their bins; None if affine.

    Returns:
        score: s of what c is added to, same shape.
        saved: What is needed again of each transform, see `split_rows`, `(N / n, T, rows, n)`.
    """
    _, rows, _, starts = layout
    D, N = z.shape
    H, M, size, limit = rows[1], rows[-1], starts[-1], z.dtype.type(limit)
    T = len(V)
    tiles = max(1, -(-N // TILE))
    width = max(1, -(-N // tiles))
    score = np.empty_like(c)
    P = (M - rows[-2]) // D
    # in one piece, see `split_rows`
    saved = np.empty((tiles, T, saved_height(D, rows, spline), width), z.dtype)
    for k in range(tiles):
        begin, end = min(k * width, N), min((k + 1) * width, N)
        out = np.zeros((D, width), z.dtype)
        out[:, : end - begin] = z[:, begin:end]
        pull, terms = -out, np.zeros((2 * D, width), z.dtype)
        for t in range(T - 1, -1, -1):
            Wt, bt = W[t * size : (t + 1) * size], b[t * (M - H) : (t + 1) * (M - H)]
            x, _, u, h, s, _ = parts = split_rows(saved[k, t], D, M)
            h[:H, end - begin :] = 0
            h[:H, : end - begin] = c[t * H : (t + 1) * H, begin:end]
            u[:] = pull
            direct = T * H + t * 2 * D
            terms[:, : end - begin] = c[direct : direct + 2 * D, begin:end]
            invert(out, parts, terms, V[t], Wt, bt, layout, limit, spline)
            below = _scores(parts, V[t], Wt, layout, limit, spline)
            store_terms(score, s[:, : end - begin], begin, t, T, H, P, D)
            out[:], pull[:] = x[::-1], below[::-1]
    return score, saved


@njit(cache=True, fastmath=FLAGS)
def saved_height(D, rows, spline):  # type: ignore[no-untyped-def]
    """Return how many rows `split_rows` splits."""
    rest = 0 if spline is None else 3 * D + spline_values.saved_rows(rows[-1] - rows[-2], D)
    return 3 * D + 2 * rows[-1] + rest


@njit(cache=True, fastmath=FLAGS)
def split_rows(saved, D, M):  # type: ignore[no-untyped-def]
    """Return the rows of one transform and tile.

    They are in one array, because memory of that size is kept for the next step; a few large ones
    would go back to the system, and it takes long to clear them.

    Returns:
        x: What goes in, `(D, n)`.
        slope: exp(alpha), same shape.
        u: Gradient of log q with respect to what comes out, same shape.
        h: Activations of all layers, those of the last one being the parameters of the univariate
            transforms, `(M, n)`.
        s: Gradient of log q with respect to all layers before their nonlinearity, same shape.
        rest: For `spline_score_kernels`.
    """
    x, slope, u = saved[:D], saved[D : 2 * D], saved[2 * D : 3 * D]
    h, s = saved[3 * D : 3 * D + M], saved[3 * D + M : 3 * D + 2 * M]
    return x, slope, u, h, s, saved[3 * D + 2 * M :]


@njit(cache=True, fastmath=FLAGS)
def between(rest, D):  # type: ignore[no-untyped-def]
    """Return what is between affine function and spline: y, the slope of the spline, the gradient
    of log q with respect to y, each `(D, n)`; and what belongs to the spline."""
    return rest[:D], rest[D : 2 * D], rest[2 * D : 3 * D], rest[3 * D :]


@njit(cache=True, fastmath=FLAGS)
def invert(z, parts, terms, V, W, b, layout, limit, spline):  # type: ignore[no-untyped-def]
    """Compute x with f(x) = z, its slope and the activations, group by group (section 2)."""
    ends, rows, _, _ = layout
    x, slope, _, h, _, rest = parts
    outputs = h[rows[-2] :]
    for g in range(ends.shape[1] - 1):
        advance(g, x, h, None, W, b, layout)
        group = ends[0, g], ends[0, g + 1]
        add_direct(group, x, outputs, terms, V)
        if spline is None:
            affine.invert(group, z, x, slope, outputs, limit)
        else:
            y, y_slope, _, curves = between(rest, len(x))
            spline_values.invert(group, z, y, y_slope, outputs, curves, limit, spline)
            affine.invert(group, y, x, slope, outputs, limit)


@njit(cache=True, fastmath=FLAGS)
def score_outputs(parts, first, limit, spline):  # type: ignore[no-untyped-def]
    """Compute s of the outputs, whose rows begin at `first`, and return the gradient of log q with
    respect to x at fixed outputs (section 3)."""
    x, slope, u, h, s, rest = parts
    outputs, last = h[first:], s[first:]
    if spline is None:
        return affine.score(last, x, slope, u, outputs, limit)
    y, _, y_u, curves = between(rest, len(x))
    y_u[:] = splines.score(last, y, u, outputs, curves, limit, spline)
    return affine.score(last, x, slope, y_u, outputs, limit)


@njit(cache=True, fastmath=FLAGS)
def store_terms(gradients, s, begin, t, T, H, P, D):  # type: ignore[no-untyped-def]
    """Copy what belongs to the context terms, for columns from `begin` and transform t."""
    end, last = begin + s.shape[1], len(s) - P * D
    gradients[t * H : (t + 1) * H, begin:end] = s[:H]
    for r in range(2 * D):
        gradients[T * H + t * 2 * D + r, begin:end] = s[last + r // 2 * P + r % 2]


@njit(cache=True, fastmath=FLAGS)
def _scores(parts, V, W, layout, limit, spline):  # type: ignore[no-untyped-def]
    """Compute s, and return the gradient of log q with respect to x (section 3)."""
    ends, rows, _, _ = layout
    _, _, _, h, s, _ = parts
    below, last = score_outputs(parts, rows[-2], limit, spline), s[rows[-2] :]
    for g in range(ends.shape[1] - 2, -1, -1):
        pull_direct((ends[0, g], ends[0, g + 1]), below, last, V)
        add_to_inputs(g, below, s, W, layout)
        retreat(g, s, h, W, layout, None, None)
    return below


@njit(cache=True, fastmath=FLAGS)
def _backward(v, saved, V, W, layout, limit, spline):  # type: ignore[no-untyped-def]
    """Return the gradients of F = <v, s> (section 4); arguments as for and from `_forward`.

    Returns:
        c_bar: `(T * (H + 2 D), N)`.
        V_bar: `(T, 2 D, D - n)`.
        W_bar and b_bar: One after the other.
    """
    _, rows, _, starts = layout
    tiles, T, _, width = saved.shape
    D, N, limit = layout[0][0, -1], v.shape[1], v.dtype.type(limit)
    H, M, size, P = rows[1], rows[-1], starts[-1], (rows[-1] - rows[-2]) // D
    c_bar, V_bar = np.empty_like(v), np.zeros_like(V)
    parameters_bar = np.zeros(len(W) + T * (M - H), v.dtype)
    W_bar, b_bar = parameters_bar[: len(W)], parameters_bar[len(W) :]
    x_dot, x_bar = np.empty((D, width), v.dtype), np.empty((D, width), v.dtype)
    a_dot, a_bar = np.empty((M, width), v.dtype), np.empty((M, width), v.dtype)
    for k in range(tiles):
        begin, end = min(k * width, N), min((k + 1) * width, N)
        x_dot[:], x_bar[:] = 0, 0
        terms = np.zeros((2 * D, width), v.dtype)
        for t in range(T):
            direct = T * H + t * 2 * D
            terms[:, : end - begin] = v[direct : direct + 2 * D, begin:end]
            Wt, Wt_bar = W[t * size : (t + 1) * size], W_bar[t * size : (t + 1) * size]
            x, _, _, h, s, _ = parts = split_rows(saved[k, t], D, M)
            a_dot[:] = 0
            a_dot[:H, : end - begin] = v[t * H : (t + 1) * H, begin:end]
            for g in range(layout[0].shape[1] - 1):
                advance(g, x_dot, a_dot, h, Wt, None, layout)
                group = layout[0][0, g], layout[0][0, g + 1]
                add_direct(group, x_dot, a_dot[rows[-2] :], terms, V[t])
            moving = x_dot, x_bar, a_dot, a_bar
            z_dot = _pull_back(moving, parts, V[t], Wt, layout, limit, spline)
            store_terms(c_bar, a_bar[:, : end - begin], begin, t, T, H, P, D)
            add_direct_products(V_bar[t], a_bar[rows[-2] :], x, layout)
            add_direct_products(V_bar[t], s[rows[-2] :], x_dot, layout)
            add_outer_products(Wt_bar, a_bar, x, h, layout)
            add_outer_products(Wt_bar, s, x_dot, a_dot, layout)
            for r in range(H, M):
                b_bar[t * (M - H) + r - H] += a_bar[r].sum()
            x_dot[:], x_bar[:] = z_dot[::-1], x_bar[::-1].copy()
    return c_bar, V_bar, parameters_bar


@njit(cache=True, fastmath=FLAGS)
def _pull_back(moving, parts, V, W, layout, limit, spline):  # type: ignore[no-untyped-def]
    """Turn x_bar into z_bar, compute a_bar, and return z_dot (section 4)."""
    ends, rows, _, _ = layout
    x_dot, x_bar, a_dot, a_bar = moving
    x, slope, u, h, s, rest = parts
    y_dot, z_dot = np.empty_like(x), np.empty_like(x)
    dots, bars, outputs = a_dot[rows[-2] :], a_bar[rows[-2] :], h[rows[-2] :]
    for g in range(ends.shape[1] - 2, -1, -1):
        add_to_inputs(g, x_bar, a_bar, W, layout)
        group = ends[0, g], ends[0, g + 1]
        if spline is None:
            affine.pull_back(group, (x_dot, x_bar, z_dot, dots, bars), x, slope, u, outputs, limit)
        else:
            y, y_slope, y_u, curves = between(rest, len(x))
            into, out = (x_dot, x_bar, y_dot, dots, bars), (y_dot, x_bar, z_dot, dots, bars)
            last = s[rows[-2] :]
            affine.pull_back(group, into, x, slope, y_u, outputs, limit)
            splines.pull_back(group, out, y, y_slope, u, outputs, last, curves, limit, spline)
        pull_direct(group, x_bar, bars, V)
        retreat(g, a_bar, h, W, layout, a_dot, s)
    return z_dot


for _kernel in (_forward, _backward):
    watch_sources(_kernel, network_kernels, affine, splines, spline_values, spline_kernels)
forward = log_compilation(_forward, "the scores of samples")
backward = log_compilation(_backward, "the gradient of the scores of samples")
