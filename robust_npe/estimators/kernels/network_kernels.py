"""Passes through the masked network of a conditioner, group by group; `docs/kernels.md`, section 1.

Only those blocks of the weights are touched that the masks keep.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = [
    "activate",
    "add_direct",
    "add_direct_products",
    "add_outer_products",
    "add_to_inputs",
    "advance",
    "apply_slope",
    "pull_direct",
    "retreat",
]

FLAGS = {"contract", "reassoc", "nsz", "arcp"}  # non-finite numbers keep their meaning
TINY = 1e-30  # activations below count as zero


@njit(cache=True, fastmath=FLAGS)
def advance(g, x, a, h, W, b, layout):  # type: ignore[no-untyped-def]
    """Compute the rows of group g in all layers of a; the first layer holds what is to be added.

    Values (h is None) have biases and activations; tangents (b is None) have no biases, and are
    multiplied by the slopes of the activations h.
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
                activate(new)
            else:
                apply_slope(new, h[rows[i] + start : rows[i] + stop])
        below, seen = layer, stop


@njit(cache=True, fastmath=FLAGS)
def retreat(g, a_bar, h, W, layout, a_dot, s):  # type: ignore[no-untyped-def]
    """Compute the rows of group g in all layers but the last, from those of later groups.

    Tangents a_dot and gradients s where a_bar are second derivatives, else None.
    """
    ends, rows, shapes, starts = layout
    for i in range(len(shapes) - 1, 0, -1):
        start, stop = ends[i, g], ends[i, g + 1]
        weight = W[starts[i] : starts[i + 1]].reshape(shapes[i, 0], shapes[i, 1])
        seeing = ends[i + 1, g]  # and all rows after it
        block = np.ascontiguousarray(weight[seeing:, start:stop])
        new = a_bar[rows[i - 1] + start : rows[i - 1] + stop]
        if new.size:
            np.dot(block.T, a_bar[rows[i] + seeing : rows[i + 1]], new)
            own = slice(rows[i - 1] + start, rows[i - 1] + stop)
            apply_slope(new, h[own])
            if a_dot is not None:
                _add_bend(new, a_dot[own], s[own], h[own])


@njit(cache=True, fastmath=FLAGS)
def add_to_inputs(g, x_bar, a_bar, W, layout):  # type: ignore[no-untyped-def]
    """Add what comes through the first layer to the coordinates of group g."""
    ends, rows, shapes, starts = layout
    if g + 2 < ends.shape[1]:  # nobody sees the last group
        weight = W[: starts[1]].reshape(shapes[0, 0], shapes[0, 1])
        start, stop, seeing = ends[0, g], ends[0, g + 1], ends[1, g + 1]
        block = np.ascontiguousarray(weight[seeing:, start:stop])
        _add_product(x_bar[start:stop], block.T, a_bar[seeing : rows[1]])


@njit(cache=True, fastmath=FLAGS)
def add_outer_products(W_bar, a, x, h, layout):  # type: ignore[no-untyped-def]
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
def activate(a):  # type: ignore[no-untyped-def]
    """See `smooth_relu`."""
    zero, half, one = a.dtype.type(0), a.dtype.type(0.5), a.dtype.type(1)
    for r in range(len(a)):
        for n in range(a.shape[1]):
            slope = min(max((a[r, n] + one) * half, zero), one)
            a[r, n] = slope * (a[r, n] + one - slope)


@njit(cache=True, fastmath=FLAGS)
def apply_slope(a, h):  # type: ignore[no-untyped-def]
    """Multiply a by the slopes at activations h."""
    one = a.dtype.type(1)
    for r in range(len(a)):
        for n in range(a.shape[1]):
            a[r, n] *= math.sqrt(min(h[r, n], one))


@njit(cache=True, fastmath=FLAGS)
def _add_bend(a_bar, a_dot, s, h):  # type: ignore[no-untyped-def]
    """Add what comes from the second derivative of the activations, 1 / 2 where h is below 1.

    a_dot and s have been multiplied by the slope, whose square is h there.
    """
    zero, half, one = h.dtype.type(0), h.dtype.type(0.5), h.dtype.type(1)
    tiny = h.dtype.type(TINY)
    for r in range(len(h)):
        for n in range(h.shape[1]):
            turn = half * a_dot[r, n] * s[r, n] / max(h[r, n], tiny)
            a_bar[r, n] += turn if h[r, n] < one else zero


@njit(cache=True, fastmath=FLAGS)
def add_direct(group, x, outputs, terms, V):  # type: ignore[no-untyped-def]
    """Add what shifts and log slopes of a group see directly: terms, and earlier coordinates."""
    P = len(outputs) // len(x)
    for d in range(*group):
        for p in range(2):
            row = outputs[d * P + p]
            row += terms[2 * d + p]
            for j in range(group[0]):
                row += V[2 * d + p, j] * x[j]


@njit(cache=True, fastmath=FLAGS)
def pull_direct(group, x_bar, outputs_bar, V):  # type: ignore[no-untyped-def]
    """Add what comes through direct connections to the coordinates before a group."""
    P = len(outputs_bar) // len(x_bar)
    for d in range(*group):
        for p in range(2):
            for j in range(group[0]):
                x_bar[j] += V[2 * d + p, j] * outputs_bar[d * P + p]


@njit(cache=True, fastmath=FLAGS)
def add_direct_products(V_bar, outputs_bar, x, layout):  # type: ignore[no-untyped-def]
    """Add the products of direct outputs with the coordinates that they see."""
    ends, P = layout[0][0], len(outputs_bar) // len(x)
    for g in range(len(ends) - 1):
        for d in range(ends[g], ends[g + 1]):
            for p in range(2):
                for j in range(ends[g]):
                    V_bar[2 * d + p, j] += np.dot(outputs_bar[d * P + p], x[j])
