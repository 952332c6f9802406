"""Passes through the masked network of a conditioner, group by group; `docs/kernels.md`, section 1.

Only those blocks of the weights are touched that the masks keep.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = [
    "add_outer_products",
    "add_to_inputs",
    "advance",
    "apply_relu",
    "apply_relu_mask",
    "retreat",
]

FLAGS = {"contract", "reassoc", "nsz", "arcp"}  # non-finite numbers keep their meaning


@njit(cache=True, fastmath=FLAGS)
def advance(g, x, a, h, W, b, layout):  # type: ignore[no-untyped-def]
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
                apply_relu(new)
            else:
                apply_relu_mask(new, h[rows[i] + start : rows[i] + stop])
        below, seen = layer, stop


@njit(cache=True, fastmath=FLAGS)
def retreat(g, a_bar, h, W, layout):  # type: ignore[no-untyped-def]
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
            apply_relu_mask(new, h[rows[i - 1] + start : rows[i - 1] + stop])


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
def apply_relu(a):  # type: ignore[no-untyped-def]
    """Set a to zero where it is not positive."""
    zero = a.dtype.type(0)
    for r in range(len(a)):
        for n in range(a.shape[1]):
            a[r, n] = zero if a[r, n] <= zero else a[r, n]


@njit(cache=True, fastmath=FLAGS)
def apply_relu_mask(a, h):  # type: ignore[no-untyped-def]
    """Set a to zero where h is not positive; arrays that overlap would not be vectorised."""
    zero = a.dtype.type(0)
    for r in range(len(a)):
        for n in range(a.shape[1]):
            a[r, n] = zero if h[r, n] <= zero else a[r, n]
