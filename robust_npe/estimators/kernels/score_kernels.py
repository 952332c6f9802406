"""Scores of an autoregressive flow and their gradient; `docs/kernels.md`, sections 1 to 4 and 7.

Columns, one for each sample, go in tiles that fit into the cache. What depends on the univariate
transform is in `affine_score_kernels` (`spline` is None here) and `spline_score_kernels`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from robust_npe.compiling import log_compilation
from robust_npe.estimators.kernels import affine_score_kernels as affine
from robust_npe.estimators.kernels import network_kernels, spline_kernels
from robust_npe.estimators.kernels import spline_score_kernels as splines
from robust_npe.estimators.kernels.network_kernels import (
    add_outer_products,
    add_to_inputs,
    advance,
    retreat,
)

__all__ = ["TILE", "backward", "forward"]

TILE = 320  # columns at most, so that their activations fit into the second cache
FLAGS = {"contract", "reassoc", "nsz", "arcp"}  # non-finite numbers keep their meaning


@njit(cache=True, fastmath=FLAGS)
def _forward(z, c, W, b, layout, limit, spline):  # type: ignore[no-untyped-def]
    """Return the scores (sections 2 and 3), and what is needed again, in tiles of n columns.

    Args:
        z: `(D, N)`.
        c: Context terms, `(T * H, N)`.
        W: Weights of all transforms and layers.
        b: Biases of all transforms, and of all layers but the first.
        layout: See `Blocks`.
        limit: Of |log slope|.
        spline: Bound of the splines, and limit of |log sizes| of their bins; None if affine.

    Returns:
        score: s of the first layers, `(T * H, N)`.
        x: What goes into each transform, `(N / n, T, D, n)`.
        slope: exp(alpha), same shape.
        u: Gradient of log q with respect to what comes out of each transform, same shape.
        h: Activations of all layers, those of the last one being the parameters of the univariate
            transforms, `(N / n, T, M, n)`.
        s: Gradient of log q with respect to all layers before their nonlinearity, same shape.
        sizes: Of the bins, `(N / n, T, D, 2 K, n)`.
        curves: See `spline_score_kernels`, `(N / n, T, D, 3, 3, n)`; empty if affine, as sizes.
    """
    _, rows, _, starts = layout
    D, N = z.shape
    H, M, size, limit = rows[1], rows[-1], starts[-1], z.dtype.type(limit)
    T = len(c) // H
    tiles = max(1, -(-N // TILE))
    width = max(1, -(-N // tiles))
    score = np.empty_like(c)
    x = np.empty((tiles, T, D, width), z.dtype)
    slope, u = np.empty_like(x), np.empty_like(x)
    h = np.empty((tiles, T, M, width), z.dtype)
    s = np.empty_like(h)
    bins = 0 if spline is None else ((M - rows[-2]) // D + 1) // 3
    sizes = np.empty((tiles, T, D, 2 * bins, width), z.dtype)
    curves = np.empty((tiles, T, D, 3, 3, width if bins else 0), z.dtype)
    for k in range(tiles):
        begin, end = min(k * width, N), min((k + 1) * width, N)
        out = np.zeros((D, width), z.dtype)
        out[:, : end - begin] = z[:, begin:end]
        pull = -out
        for t in range(T - 1, -1, -1):
            Wt, bt = W[t * size : (t + 1) * size], b[t * (M - H) : (t + 1) * (M - H)]
            h[k, t, :H, end - begin :] = 0
            h[k, t, :H, : end - begin] = c[t * H : (t + 1) * H, begin:end]
            u[k, t] = pull
            saved = x[k, t], slope[k, t], u[k, t], h[k, t], sizes[k, t], curves[k, t]
            _invert(out, saved, Wt, bt, layout, limit, spline)
            below = _scores(saved, s[k, t], Wt, layout, limit, spline)
            score[t * H : (t + 1) * H, begin:end] = s[k, t, :H, : end - begin]
            out[:], pull[:] = x[k, t, ::-1], below[::-1]
    return score, x, slope, u, h, s, sizes, curves


@njit(cache=True, fastmath=FLAGS)
def _invert(z, saved, W, b, layout, limit, spline):  # type: ignore[no-untyped-def]
    """Compute x with f(x) = z, its slope and the activations, group by group (section 2)."""
    ends, rows, _, _ = layout
    x, slope, _, h, sizes, curves = saved
    outputs = h[rows[-2] :]
    for g in range(ends.shape[1] - 1):
        advance(g, x, h, None, W, b, layout)
        group = ends[0, g], ends[0, g + 1]
        if spline is None:
            affine.invert(group, z, x, slope, outputs, limit)
        else:
            splines.invert(group, z, x, slope, outputs, sizes, curves, limit, spline)


@njit(cache=True, fastmath=FLAGS)
def _scores(saved, s, W, layout, limit, spline):  # type: ignore[no-untyped-def]
    """Compute s, and return the gradient of log q with respect to x (section 3)."""
    ends, rows, _, _ = layout
    x, slope, u, h, sizes, curves = saved
    outputs, last = h[rows[-2] :], s[rows[-2] :]
    if spline is None:
        below = affine.score(last, x, slope, u, outputs, limit)
    else:
        below = splines.score(last, x, u, outputs, sizes, curves, limit, spline)
    for g in range(ends.shape[1] - 2, -1, -1):
        add_to_inputs(g, below, s, W, layout)
        retreat(g, s, h, W, layout)
    return below


@njit(cache=True, fastmath=FLAGS)
def _backward(v, x, slope, u, h, s, sizes, curves, W, layout, limit, spline):  # type: ignore[no-untyped-def]
    """Return the gradients of F = <v, s> (section 4); arguments as for and from `_forward`.

    Returns:
        c_bar: `(T * H, N)`.
        W_bar and b_bar: One after the other.
    """
    _, rows, _, starts = layout
    tiles, T, D, width = x.shape
    N, H, M, size, limit = v.shape[1], rows[1], rows[-1], starts[-1], v.dtype.type(limit)
    c_bar = np.empty_like(v)
    parameters_bar = np.zeros(len(W) + T * (M - H), v.dtype)
    W_bar, b_bar = parameters_bar[: len(W)], parameters_bar[len(W) :]
    x_dot, x_bar = np.empty((D, width), v.dtype), np.empty((D, width), v.dtype)
    a_dot, a_bar = np.empty((M, width), v.dtype), np.empty((M, width), v.dtype)
    for k in range(tiles):
        begin, end = min(k * width, N), min((k + 1) * width, N)
        x_dot[:], x_bar[:] = 0, 0
        for t in range(T):
            Wt = W[t * size : (t + 1) * size]
            a_dot[:] = 0
            a_dot[:H, : end - begin] = v[t * H : (t + 1) * H, begin:end]
            for g in range(layout[0].shape[1] - 1):
                advance(g, x_dot, a_dot, h[k, t], Wt, None, layout)
            saved = x[k, t], slope[k, t], u[k, t], h[k, t], sizes[k, t], curves[k, t]
            z_dot = _pull_back(x_dot, x_bar, a_dot, a_bar, saved, Wt, layout, limit, spline)
            c_bar[t * H : (t + 1) * H, begin:end] = a_bar[:H, : end - begin]
            add_outer_products(W_bar[t * size : (t + 1) * size], a_bar, x[k, t], h[k, t], layout)
            add_outer_products(W_bar[t * size : (t + 1) * size], s[k, t], x_dot, a_dot, layout)
            for r in range(H, M):
                b_bar[t * (M - H) + r - H] += a_bar[r].sum()
            x_dot[:], x_bar[:] = z_dot[::-1], x_bar[::-1].copy()
    return c_bar, parameters_bar


@njit(cache=True, fastmath=FLAGS)
def _pull_back(x_dot, x_bar, a_dot, a_bar, saved, W, layout, limit, spline):  # type: ignore[no-untyped-def]
    """Turn x_bar into z_bar, compute a_bar, and return z_dot (section 4)."""
    ends, rows, _, _ = layout
    x, slope, u, h, sizes, curves = saved
    z_dot = np.empty_like(x)
    dots, bars, outputs = a_dot[rows[-2] :], a_bar[rows[-2] :], h[rows[-2] :]
    for g in range(ends.shape[1] - 2, -1, -1):
        add_to_inputs(g, x_bar, a_bar, W, layout)
        group, moving = (ends[0, g], ends[0, g + 1]), (x_dot, x_bar, z_dot, dots, bars)
        if spline is None:
            affine.pull_back(group, moving, x, slope, u, outputs, limit)
        else:
            splines.pull_back(group, moving, x, slope, u, outputs, sizes, curves, limit, spline)
        retreat(g, a_bar, h, W, layout)
    return z_dot


forward = log_compilation(_forward, "the scores of samples")
backward = log_compilation(_backward, "the gradient of the scores of samples")
