"""Splines at the bins that were found for them, and their inverse; `docs/kernels.md`, section 7.

Outputs of the conditioner are, for each coordinate, two of the affine function before the spline,
then raw widths, heights and inner slopes. What is needed of them once the bin of each column is
found is kept in `rest`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = [
    "add_log_slope",
    "invert",
    "parameters",
    "point_of",
    "rates_and_curves",
    "saved_rows",
    "transform",
]

FLAGS = {"contract", "nsz", "arcp"}  # non-finite numbers keep their meaning
WIDTHS, HEIGHTS, SLOPES = range(3)  # first axis of a curve
LEFT, SIZE, SHARE = range(3)  # of a bin: left end, size; one over the total size of all bins
FIRST, SECOND, BIN = range(3)  # of slopes: at both ends of the bin; its number, -1 outside


@njit(cache=True, fastmath=FLAGS)
def saved_rows(outputs, dim):  # type: ignore[no-untyped-def]
    """Return how many rows `_rates_and_curves` splits, for so many outputs of a conditioner."""
    bins = (outputs // dim - 1) // 3
    return (2 * bins + 9) * dim


@njit(cache=True, fastmath=FLAGS)
def transform(x, z, slope, outputs, rest, limit, spline):  # type: ignore[no-untyped-def]
    """Compute z = f(x) and its slope, and fill the rest."""
    bound, _ = spline
    for d in range(len(x)):
        curve = _fill(d, x[d], 0, outputs, rest, len(x), limit, spline)
        for n in range(x.shape[1]):
            xi, s, d0, e, q, _, height = point_of(x[d, n], curve[:, :, n], bound)
            denominator = s + q * xi * (1 - xi)
            v = curve[HEIGHTS, LEFT, n] + height * (xi * (d0 + xi * e)) / denominator
            scale, inside = s / denominator, curve[SLOPES, BIN, n] >= 0
            z[d, n] = bound * (2 * v - 1) if inside else x[d, n]
            slope[d, n] = scale * scale * (d0 + xi * (2 * e + xi * q)) if inside else 1.0


@njit(cache=True, fastmath=FLAGS)
def invert(group, z, x, slope, outputs, rest, limit, spline):  # type: ignore[no-untyped-def]
    """Compute x with f(x) = z and its slope, and fill the rest, for the coordinates of a group."""
    bound, _ = spline
    for d in range(*group):
        curve = _fill(d, z[d], 1, outputs, rest, len(x), limit, spline)
        for n in range(z.shape[1]):
            x[d, n], slope[d, n] = _invert_curve(z[d, n], curve[:, :, n], bound)


@njit(cache=True, fastmath=FLAGS)
def add_log_slope(total, slope):  # type: ignore[no-untyped-def]
    """Add the logarithm of a slope to the total of each column."""
    for d in range(len(slope)):
        for n in range(slope.shape[1]):
            total[n] += math.log(slope[d, n])


@njit(cache=True, fastmath=FLAGS)
def _fill(d, place, axis, outputs, rest, dim, limit, spline):  # type: ignore[no-untyped-def]
    """Fill the rest of coordinate d, for the bins of these x (axis 0) or z (1); return its curve.

    The derivatives of all sizes are those sizes first, which are known from the curve later.
    """
    bound, size_limit = spline
    rates, curves = rates_and_curves(rest, dim)
    bins, clip = rates.shape[1] // 2, place.dtype.type(size_limit)
    raw, curve, sizes = parameters(outputs, d, bins), curves[d], rates[d]
    shrink = np.empty_like(sizes)
    for k in range(2 * bins):
        for n in range(len(place)):
            shrink[k, n] = clip / (clip + abs(raw[k, n]))
            sizes[k, n] = raw[k, n] * shrink[k, n]
        for n in range(len(place)):  # on its own: a call keeps loops from being vectorised
            sizes[k, n] = math.exp(sizes[k, n])
    _find_bins(curve, place, axis, sizes, bound)
    _find_slopes(curve[SLOPES], raw[2 * bins :], limit)
    sizes *= shrink * shrink
    return curve


@njit(cache=True, fastmath=FLAGS)
def rates_and_curves(rest, dim):  # type: ignore[no-untyped-def]
    """Return the derivatives of all sizes, `(D, 2 K, n)`, and the curves, `(D, 3, 3, n)`."""
    bins, n = (len(rest) // dim - 9) // 2, rest.shape[1]
    split = 2 * bins * dim
    return rest[:split].reshape(dim, 2 * bins, n), rest[split:].reshape(dim, 3, 3, n)


@njit(cache=True, fastmath=FLAGS)
def parameters(outputs, d, bins):  # type: ignore[no-untyped-def]
    """Return the rows of coordinate d."""
    return outputs[d * (3 * bins + 1) + 2 : (d + 1) * (3 * bins + 1)]


@njit(cache=True, fastmath=FLAGS)
def _find_bins(curve, z, axis, sizes, bound):  # type: ignore[no-untyped-def]
    """Find the bin of each z, or x (axis 0); outside, where f is the identity, one whose size does
    not matter."""
    bins = len(sizes) // 2
    zero, one = z.dtype.type(0), z.dtype.type(1)
    edge, v, found = np.zeros_like(z), np.empty_like(z), curve[SLOPES, BIN]
    curve[:] = 0
    for side in range(2):
        for k in range(bins):
            curve[side, SHARE] += sizes[side * bins + k]
    for n in range(len(z)):
        v[n] = (z[n] / (2 * bound) + 0.5) * curve[axis, SHARE, n]
    for k in range(bins - 1):
        size = sizes[axis * bins + k]
        for n in range(len(z)):
            edge[n] += size[n]
            found[n] += one if edge[n] < v[n] else zero
    for side in range(2):
        left, own, share = curve[side, LEFT], curve[side, SIZE], curve[side, SHARE]
        for k in range(bins):
            size, this = sizes[side * bins + k], z.dtype.type(k)
            for n in range(len(z)):
                left[n] += size[n] if this < found[n] else zero
                own[n] += size[n] if this == found[n] else zero
        for n in range(len(z)):
            inside = abs(z[n]) < bound
            left[n] = left[n] / share[n] if inside else zero
            own[n] = own[n] / share[n] if inside else one
            share[n] = one / share[n] if inside else zero
    for n in range(len(z)):
        found[n] = found[n] if abs(z[n]) < bound else -one


@njit(cache=True, fastmath=FLAGS)
def _find_slopes(slopes, raw, limit):  # type: ignore[no-untyped-def]
    """Compute the slopes at both ends of each bin: at knots that have no parameter, 1."""
    found, zero = slopes[BIN], slopes.dtype.type(0)
    for side in range(2):
        slope = slopes[side]
        for n in range(len(found)):
            knot = int(found[n]) + side
            own = raw[knot - 1, n] if 0 < knot <= len(raw) else zero
            slope[n] = own * limit / (limit + abs(own))
        for n in range(len(found)):
            slope[n] = math.exp(slope[n])


@njit(cache=True, fastmath=FLAGS)
def _invert_curve(z, curve, bound):  # type: ignore[no-untyped-def]
    """Return x with f(x) = z, and the slope there (section 5)."""
    width, height = curve[WIDTHS, SIZE], curve[HEIGHTS, SIZE]
    d0, d1 = curve[SLOPES, FIRST], curve[SLOPES, SECOND]
    if curve[SLOPES, BIN] < 0:
        return z, 1.0
    s, rise = height / width, z / (2 * bound) + 0.5 - curve[HEIGHTS, LEFT]
    e, q = s - d0, d0 + d1 - 2 * s
    a, b, c = height * e + rise * q, height * d0 - rise * q, -s * rise
    xi = 2 * c / (-b - math.sqrt(max(b * b - 4 * a * c, 0.0)))
    scale = s / (s + q * xi * (1 - xi))
    slope = scale * scale * (d0 + xi * (2 * e + xi * q))
    return bound * (2 * (curve[WIDTHS, LEFT] + xi * width) - 1), slope


@njit(cache=True, fastmath=FLAGS)
def point_of(x, curve, bound):  # type: ignore[no-untyped-def]
    """Return xi, s, d0, e, q, width and height at x."""
    width, height = curve[WIDTHS, SIZE], curve[HEIGHTS, SIZE]
    d0, d1 = curve[SLOPES, FIRST], curve[SLOPES, SECOND]
    s, xi = height / width, (x / (2 * bound) + 0.5 - curve[WIDTHS, LEFT]) / width
    return xi, s, d0, s - d0, d0 + d1 - 2 * s, width, height
