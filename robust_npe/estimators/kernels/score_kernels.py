"""Scores of an affine autoregressive flow and their gradient; `docs/kernels.md`, sections 1 to 4.

Columns, one for each sample, go in tiles that fit into the cache, and only those blocks of the
weights are touched that the masks keep.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from robust_npe.compiling import log_compilation

__all__ = ["TILE", "backward", "forward"]

TILE = 320  # columns at most, so that their activations fit into the second cache
FLAGS = {"contract", "reassoc", "nsz", "arcp"}  # non-finite numbers keep their meaning


@njit(cache=True, fastmath=FLAGS)
def _forward(z, c, W, b, layout, limit):  # type: ignore[no-untyped-def]
    """Return the scores (sections 2 and 3), and what is needed again, in tiles of n columns.

    Args:
        z: `(D, N)`.
        c: Context terms, `(T * H, N)`.
        W: Weights of all transforms and layers.
        b: Biases of all transforms, and of all layers but the first.
        layout: See `Blocks`.
        limit: Of |alpha|.

    Returns:
        score: s of the first layers, `(T * H, N)`.
        x: What goes into each transform, `(N / n, T, D, n)`.
        slope: exp(alpha), same shape.
        u: Gradient of log q with respect to what comes out of each transform, same shape.
        h: Activations of all layers, those of the last one being shifts and raw log slopes,
            `(N / n, T, M, n)`.
        s: Gradient of log q with respect to all layers before their nonlinearity, same shape.
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
            _invert(out, x[k, t], slope[k, t], h[k, t], Wt, bt, layout, limit)
            below = _scores(x[k, t], slope[k, t], u[k, t], h[k, t], s[k, t], Wt, layout, limit)
            score[t * H : (t + 1) * H, begin:end] = s[k, t, :H, : end - begin]
            out[:], pull[:] = x[k, t, ::-1], below[::-1]
    return score, x, slope, u, h, s


@njit(cache=True, fastmath=FLAGS)
def _invert(z, x, slope, h, W, b, layout, limit):  # type: ignore[no-untyped-def]
    """Compute x with f(x) = z, its slope and the activations, group by group (section 2)."""
    ends, rows, _, _ = layout
    for g in range(ends.shape[1] - 1):
        _advance(g, x, h, None, W, b, layout)
        for d in range(ends[0, g], ends[0, g + 1]):
            shift, raw = h[rows[-2] + 2 * d], h[rows[-2] + 2 * d + 1]
            for n in range(z.shape[1]):
                slope[d, n] = raw[n] * limit / (limit + abs(raw[n]))
            for n in range(z.shape[1]):  # on its own: a call keeps loops from being vectorised
                slope[d, n] = math.exp(slope[d, n])
            for n in range(z.shape[1]):
                x[d, n] = (z[d, n] - shift[n]) / slope[d, n]


@njit(cache=True, fastmath=FLAGS)
def _scores(x, slope, u, h, s, W, layout, limit):  # type: ignore[no-untyped-def]
    """Compute s, and return the gradient of log q with respect to x (section 3)."""
    ends, rows, _, _ = layout
    below = u * slope
    for d in range(len(x)):
        shift, raw = rows[-2] + 2 * d, rows[-2] + 2 * d + 1
        for n in range(x.shape[1]):
            root = limit / (limit + abs(h[raw, n]))
            first = root * root  # derivative of alpha
            s[shift, n] = u[d, n]
            s[raw, n] = below[d, n] * x[d, n] * first + first
    for g in range(ends.shape[1] - 2, -1, -1):
        _add_to_inputs(g, below, s, W, layout)
        _retreat(g, s, h, W, layout)
    return below


@njit(cache=True, fastmath=FLAGS)
def _backward(v, x, slope, u, h, s, W, layout, limit):  # type: ignore[no-untyped-def]
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
                _advance(g, x_dot, a_dot, h[k, t], Wt, None, layout)
            saved = x[k, t], slope[k, t], u[k, t], h[k, t]
            z_dot = _pull_back(x_dot, x_bar, a_dot, a_bar, saved, Wt, layout, limit)
            c_bar[t * H : (t + 1) * H, begin:end] = a_bar[:H, : end - begin]
            _add_outer_products(W_bar[t * size : (t + 1) * size], a_bar, x[k, t], h[k, t], layout)
            _add_outer_products(W_bar[t * size : (t + 1) * size], s[k, t], x_dot, a_dot, layout)
            for r in range(H, M):
                b_bar[t * (M - H) + r - H] += a_bar[r].sum()
            x_dot[:], x_bar[:] = z_dot[::-1], x_bar[::-1].copy()
    return c_bar, parameters_bar


@njit(cache=True, fastmath=FLAGS)
def _pull_back(x_dot, x_bar, a_dot, a_bar, saved, W, layout, limit):  # type: ignore[no-untyped-def]
    """Turn x_bar into z_bar, compute a_bar, and return z_dot (section 4)."""
    ends, rows, _, _ = layout
    x, slope, u, h = saved
    z_dot = np.empty_like(x)
    for g in range(ends.shape[1] - 2, -1, -1):
        _add_to_inputs(g, x_bar, a_bar, W, layout)
        for d in range(ends[0, g], ends[0, g + 1]):
            shift, raw = rows[-2] + 2 * d, rows[-2] + 2 * d + 1
            for n in range(x.shape[1]):
                root = limit / (limit + abs(h[raw, n]))
                signed = -root if h[raw, n] > 0 else root
                first, second = root * root, root * root * (signed + signed) / limit  # of alpha
                alpha_dot = first * a_dot[raw, n]
                moved = x_dot[d, n] + x[d, n] * alpha_dot
                z_dot[d, n] = slope[d, n] * moved + a_dot[shift, n]
                pull = u[d, n] * slope[d, n]
                z_bar = x_bar[d, n] / slope[d, n] + u[d, n] * alpha_dot
                x_bar[d, n] = z_bar
                a_bar[shift, n] = -z_bar
                turn = second * a_dot[raw, n]
                a_bar[raw, n] = (
                    (pull * moved - z_bar * slope[d, n] * x[d, n]) * first
                    + pull * x[d, n] * turn
                    + turn
                )
        _retreat(g, a_bar, h, W, layout)
    return z_dot


@njit(cache=True, fastmath=FLAGS)
def _advance(g, x, a, h, W, b, layout):  # type: ignore[no-untyped-def]
    """Compute the rows of group g in all layers of a; the first layer holds what is to be added.

    Values (h is None) have biases, and decide themselves where a ReLU is open; tangents (b is
    None) have none, and the activations h decide.
    """
    ends, rows, shapes, starts = layout
    below, seen = x, ends[0, g]
    for i in range(len(shapes)):
        start, stop = ends[i + 1, g], ends[i + 1, g + 1]
        weight = W[starts[i] : starts[i + 1]].reshape(shapes[i, 0], shapes[i, 1])
        block = np.ascontiguousarray(weight[start:stop, :seen])
        layer = a[rows[i] : rows[i + 1]]
        new = layer[start:stop]
        if i == 0:
            _add_product(new, block, below[:seen])
        elif new.size:
            np.dot(block, below[:seen], new)
            if b is not None:
                new += b[rows[i] - rows[1] :][start:stop].reshape(-1, 1)
        if i + 1 < len(shapes):
            if h is None:
                _apply_relu(new)
            else:
                _apply_relu_mask(new, h[rows[i] + start : rows[i] + stop])
        below, seen = layer, stop


@njit(cache=True, fastmath=FLAGS)
def _retreat(g, a_bar, h, W, layout):  # type: ignore[no-untyped-def]
    """Compute the rows of group g in all layers but the last, from those of later groups."""
    ends, rows, shapes, starts = layout
    for i in range(len(shapes) - 1, 0, -1):
        start, stop = ends[i, g], ends[i, g + 1]
        weight = W[starts[i] : starts[i + 1]].reshape(shapes[i, 0], shapes[i, 1])
        seeing = ends[i + 1, g]  # and all rows after it
        block = np.ascontiguousarray(weight[seeing:, start:stop])
        new = a_bar[rows[i - 1] + start : rows[i - 1] + stop]
        if new.size:
            np.dot(block.T, a_bar[rows[i] + seeing : rows[i + 1]], new)
            _apply_relu_mask(new, h[rows[i - 1] + start : rows[i - 1] + stop])


@njit(cache=True, fastmath=FLAGS)
def _add_to_inputs(g, x_bar, a_bar, W, layout):  # type: ignore[no-untyped-def]
    """Add what comes through the first layer to the coordinates of group g."""
    ends, rows, shapes, starts = layout
    if g + 2 < ends.shape[1]:  # nobody sees the last group
        weight = W[: starts[1]].reshape(shapes[0, 0], shapes[0, 1])
        start, stop, seeing = ends[0, g], ends[0, g + 1], ends[1, g + 1]
        block = np.ascontiguousarray(weight[seeing:, start:stop])
        _add_product(x_bar[start:stop], block.T, a_bar[seeing : rows[1]])


@njit(cache=True, fastmath=FLAGS)
def _add_outer_products(W_bar, a, x, h, layout):  # type: ignore[no-untyped-def]
    """Add the products of each layer of a with what it sees below, summed over the columns."""
    ends, rows, shapes, starts = layout
    below = x
    for i in range(len(shapes)):
        weight_bar = W_bar[starts[i] : starts[i + 1]].reshape(shapes[i, 0], shapes[i, 1])
        for g in range(ends.shape[1] - 1):
            start, stop = ends[i + 1, g], ends[i + 1, g + 1]
            seen = ends[i, g + 1] if i else ends[0, g]
            above = a[rows[i] + start : rows[i] + stop]
            _add_product(weight_bar[start:stop, :seen], above, below[:seen].T)
        below = h[rows[i] : rows[i + 1]]


@njit(cache=True, fastmath=FLAGS)
def _add_product(out, w, a):  # type: ignore[no-untyped-def]
    """out += w @ a, where either may be empty; BLAS wants w or its transpose contiguous."""
    if out.size and w.size:
        out += np.dot(w, a)


@njit(cache=True, fastmath=FLAGS)
def _apply_relu(a):  # type: ignore[no-untyped-def]
    zero = a.dtype.type(0)
    for r in range(len(a)):
        for n in range(a.shape[1]):
            a[r, n] = zero if a[r, n] <= zero else a[r, n]


@njit(cache=True, fastmath=FLAGS)
def _apply_relu_mask(a, h):  # type: ignore[no-untyped-def]
    """Set a to zero where h is not positive; arrays that overlap would not be vectorised."""
    zero = a.dtype.type(0)
    for r in range(len(a)):
        for n in range(a.shape[1]):
            a[r, n] = zero if h[r, n] <= zero else a[r, n]


forward = log_compilation(_forward, "the scores of samples")
backward = log_compilation(_backward, "the gradient of the scores of samples")
