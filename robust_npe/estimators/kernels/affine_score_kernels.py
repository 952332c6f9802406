"""The affine transforms' part in the scores of a flow; `docs/kernels.md`, sections 2 to 4.

Outputs of the conditioner are, for each coordinate, a shift, a raw log slope, and what belongs to
the spline that follows, if any.
"""

from __future__ import annotations

import math

from numba import njit

__all__ = ["add_log_slope", "invert", "pull_back", "score", "transform"]

FLAGS = {"contract", "reassoc", "nsz", "arcp"}  # non-finite numbers keep their meaning


@njit(cache=True, fastmath=FLAGS)
def transform(x, z, slope, total, outputs, limit):  # type: ignore[no-untyped-def]
    """Compute z = f(x) and its slope, whose logarithm is added to the total of each column."""
    P = len(outputs) // len(x)
    for d in range(len(x)):
        shift, raw = outputs[d * P], outputs[d * P + 1]
        for n in range(x.shape[1]):
            slope[d, n] = raw[n] * limit / (limit + abs(raw[n]))
            total[n] += slope[d, n]
        for n in range(x.shape[1]):  # on its own: a call keeps loops from being vectorised
            slope[d, n] = math.exp(slope[d, n])
        for n in range(x.shape[1]):
            z[d, n] = slope[d, n] * x[d, n] + shift[n]


@njit(cache=True, fastmath=FLAGS)
def add_log_slope(total, x, outputs, limit):  # type: ignore[no-untyped-def]
    """Add the logarithm of the slope, over the coordinates of x, to the total of each column."""
    P = len(outputs) // len(x)
    for d in range(len(x)):
        raw = outputs[d * P + 1]
        for n in range(x.shape[1]):
            total[n] += raw[n] * limit / (limit + abs(raw[n]))


@njit(cache=True, fastmath=FLAGS)
def invert(group, z, x, slope, outputs, limit):  # type: ignore[no-untyped-def]
    """Compute x with f(x) = z and its slope, for the coordinates of a group (section 2)."""
    P = len(outputs) // len(x)
    for d in range(*group):
        shift, raw = outputs[d * P], outputs[d * P + 1]
        for n in range(z.shape[1]):
            slope[d, n] = raw[n] * limit / (limit + abs(raw[n]))
        for n in range(z.shape[1]):  # on its own: a call keeps loops from being vectorised
            slope[d, n] = math.exp(slope[d, n])
        for n in range(z.shape[1]):
            x[d, n] = (z[d, n] - shift[n]) / slope[d, n]


@njit(cache=True, fastmath=FLAGS)
def score(s, x, slope, u, outputs, limit):  # type: ignore[no-untyped-def]
    """Return the gradient of log q with respect to x at fixed outputs, and compute that with
    respect to these, s (section 3)."""
    below, P = u * slope, len(outputs) // len(x)
    for d in range(len(x)):
        shift, raw = d * P, d * P + 1
        for n in range(x.shape[1]):
            root = limit / (limit + abs(outputs[raw, n]))
            first = root * root  # derivative of alpha
            s[shift, n] = u[d, n]
            s[raw, n] = below[d, n] * x[d, n] * first + first
    return below


@njit(cache=True, fastmath=FLAGS)
def pull_back(group, moving, x, slope, u, outputs, limit):  # type: ignore[no-untyped-def]
    """Turn x_bar into z_bar, and compute z_dot and the gradients of F by outputs (section 4)."""
    x_dot, x_bar, z_dot, dots, bars = moving
    P = len(outputs) // len(x)
    for d in range(*group):
        shift, raw = d * P, d * P + 1
        for n in range(x.shape[1]):
            root = limit / (limit + abs(outputs[raw, n]))
            signed = -root if outputs[raw, n] > 0 else root
            first, second = root * root, root * root * (signed + signed) / limit  # of alpha
            alpha_dot = first * dots[raw, n]
            moved = x_dot[d, n] + x[d, n] * alpha_dot
            z_dot[d, n] = slope[d, n] * moved + dots[shift, n]
            pull = u[d, n] * slope[d, n]
            z_bar = x_bar[d, n] / slope[d, n] + u[d, n] * alpha_dot
            x_bar[d, n] = z_bar
            bars[shift, n] = -z_bar
            turn = second * dots[raw, n]
            bars[raw, n] = (
                (pull * moved - z_bar * slope[d, n] * x[d, n]) * first
                + pull * x[d, n] * turn
                + turn
            )
