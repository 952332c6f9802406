"""The splines' part in the scores of a flow; `docs/kernels.md`, section 7.

Outputs of the conditioner are, for each coordinate, two of the affine function before the spline,
then raw widths, heights and inner slopes. What is needed of them once the bin of each column is
found is kept in `rest`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from robust_npe.estimators.kernels.spline_kernels import curve_curvature, curve_gradient

__all__ = ["add_log_slope", "invert", "pull_back", "saved_rows", "score", "transform"]

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
def _rates_and_curves(rest, dim):  # type: ignore[no-untyped-def]
    """Return the derivatives of all sizes, `(D, 2 K, n)`, and the curves, `(D, 3, 3, n)`."""
    bins, n = (len(rest) // dim - 9) // 2, rest.shape[1]
    split = 2 * bins * dim
    return rest[:split].reshape(dim, 2 * bins, n), rest[split:].reshape(dim, 3, 3, n)


@njit(cache=True, fastmath=FLAGS)
def transform(x, z, slope, outputs, rest, limit, spline):  # type: ignore[no-untyped-def]
    """Compute z = f(x) and its slope, and fill the rest."""
    bound, _ = spline
    for d in range(len(x)):
        curve = _fill(d, x[d], 0, outputs, rest, len(x), limit, spline)
        for n in range(x.shape[1]):
            xi, s, d0, e, q, _, height = _point(x[d, n], curve[:, :, n], bound)
            denominator = s + q * xi * (1 - xi)
            v = curve[HEIGHTS, LEFT, n] + height * (xi * (d0 + xi * e)) / denominator
            scale, inside = s / denominator, curve[SLOPES, BIN, n] >= 0
            z[d, n] = bound * (2 * v - 1) if inside else x[d, n]
            slope[d, n] = scale * scale * (d0 + xi * (2 * e + xi * q)) if inside else 1.0


@njit(cache=True, fastmath=FLAGS)
def add_log_slope(total, slope):  # type: ignore[no-untyped-def]
    """Add the logarithm of a slope to the total of each column."""
    for d in range(len(slope)):
        for n in range(slope.shape[1]):
            total[n] += math.log(slope[d, n])


@njit(cache=True, fastmath=FLAGS)
def invert(group, z, x, slope, outputs, rest, limit, spline):  # type: ignore[no-untyped-def]
    """Compute x with f(x) = z and its slope, and fill the rest, for the coordinates of a group."""
    bound, _ = spline
    for d in range(*group):
        curve = _fill(d, z[d], 1, outputs, rest, len(x), limit, spline)
        for n in range(z.shape[1]):
            x[d, n], slope[d, n] = _invert_curve(z[d, n], curve[:, :, n], bound)


@njit(cache=True, fastmath=FLAGS)
def _fill(d, place, axis, outputs, rest, dim, limit, spline):  # type: ignore[no-untyped-def]
    """Fill the rest of coordinate d, for the bins of these x (axis 0) or z (1); return its curve.

    The derivatives of all sizes are those sizes first, which are known from the curve later.
    """
    bound, size_limit = spline
    rates, curves = _rates_and_curves(rest, dim)
    bins, clip = rates.shape[1] // 2, place.dtype.type(size_limit)
    raw, curve, sizes = _parameters(outputs, d, bins), curves[d], rates[d]
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
def score(s, x, u, outputs, rest, limit, spline):  # type: ignore[no-untyped-def]
    """Return the gradient of log q with respect to x at fixed outputs, and compute that with
    respect to these, s."""
    bound, _ = spline
    rates, curves = _rates_and_curves(rest, len(x))
    bins = rates.shape[1] // 2
    below = np.empty_like(x)
    bars = np.empty((3, 2, x.shape[1]), x.dtype)
    for d in range(len(x)):
        curve = curves[d]
        for n in range(x.shape[1]):
            v_bar = 2 * bound * u[d, n]
            gradient = curve_gradient(*_point(x[d, n], curve[:, :, n], bound), v_bar, 1.0)  # type: ignore[call-arg]
            below[d, n] = gradient[0] / (2 * bound)
            _store(bars[:, :, n], gradient, v_bar, curve[:, :, n])
        raw, out = _parameters(outputs, d, bins), _parameters(s, d, bins)
        means = _product(bars, curve)
        _to_parameters(out, raw, rates[d], curve[SLOPES, BIN], bars, means, limit)
    return below


@njit(cache=True, fastmath=FLAGS)
def pull_back(group, moving, x, slope, u, outputs, s, rest, limit, spline):  # type: ignore[no-untyped-def]
    """Turn x_bar into z_bar, and compute z_dot and the gradients of F by outputs."""
    x_dot, x_bar, z_dot, outputs_dot, outputs_bar = moving
    bound, size_limit = spline
    rates, curves = _rates_and_curves(rest, len(x))
    bins, clip = rates.shape[1] // 2, x.dtype.type(size_limit)
    dots = np.empty_like(curves[0])
    first = np.empty((3, 2, x.shape[1]), x.dtype)  # gradients of log q, as in `score`
    second = np.empty_like(first)  # gradients of F
    for d in range(*group):
        raw, raw_dot = _parameters(outputs, d, bins), _parameters(outputs_dot, d, bins)
        curve, out = curves[d], _parameters(outputs_bar, d, bins)
        _move_curve(dots, raw, raw_dot, rates[d], curve, limit)
        for n in range(x.shape[1]):
            point = _point(x[d, n], curve[:, :, n], bound)
            tangent = _tangent(x_dot[d, n], point, dots[:, :, n], bound)
            v_bar = 2 * bound * u[d, n]
            rise_dot, gradient, gradient_dot = curve_curvature(point, tangent, v_bar)
            _store(first[:, :, n], gradient, v_bar, curve[:, :, n])
            z_dot[d, n] = 2 * bound * (dots[HEIGHTS, LEFT, n] + rise_dot)
            x_bar[d, n] = (x_bar[d, n] + gradient_dot[0] / (2 * bound)) / slope[d, n]
            v_bar = -2 * bound * x_bar[d, n]  # x moves by what z does not
            total = _sum(gradient_dot, curve_gradient(*point, v_bar, 0.0))  # type: ignore[call-arg]
            _store(second[:, :, n], total, v_bar, curve[:, :, n])
        second[SLOPES] += first[SLOPES] * dots[SLOPES, :2] / curve[SLOPES, :2]
        means = _product(second, curve) + _product(first, dots)
        _to_parameters(out, raw, rates[d], curve[SLOPES, BIN], second, means, limit)
        _add_turns(out, raw, raw_dot, _parameters(s, d, bins), dots[:SLOPES, SHARE], clip, limit)


@njit(cache=True, fastmath=FLAGS)
def _parameters(outputs, d, bins):  # type: ignore[no-untyped-def]
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
def _point(x, curve, bound):  # type: ignore[no-untyped-def]
    """Return xi, s, d0, e, q, width and height at x."""
    width, height = curve[WIDTHS, SIZE], curve[HEIGHTS, SIZE]
    d0, d1 = curve[SLOPES, FIRST], curve[SLOPES, SECOND]
    s, xi = height / width, (x / (2 * bound) + 0.5 - curve[WIDTHS, LEFT]) / width
    return xi, s, d0, s - d0, d0 + d1 - 2 * s, width, height


@njit(cache=True, fastmath=FLAGS)
def _tangent(x_dot, point, curve_dot, bound):  # type: ignore[no-untyped-def]
    """Return the tangents of what `_point` returns."""
    xi, s, _, _, _, width, _ = point
    width_dot, height_dot = curve_dot[WIDTHS, SIZE], curve_dot[HEIGHTS, SIZE]
    d0_dot, d1_dot = curve_dot[SLOPES, FIRST], curve_dot[SLOPES, SECOND]
    s_dot = (height_dot - s * width_dot) / width
    xi_dot = (x_dot / (2 * bound) - curve_dot[WIDTHS, LEFT] - xi * width_dot) / width
    changes = s_dot - d0_dot, d0_dot + d1_dot - 2 * s_dot
    return xi_dot, s_dot, d0_dot, *changes, width_dot, height_dot


@njit(cache=True, fastmath=FLAGS)
def _store(bars, gradient, v_bar, curve):  # type: ignore[no-untyped-def]
    """Write gradients with respect to left ends and sizes, over total sizes, and log slopes."""
    bars[0, LEFT], bars[0, SIZE] = -gradient[0] * curve[0, SHARE], gradient[1] * curve[0, SHARE]
    bars[1, LEFT], bars[1, SIZE] = v_bar * curve[1, SHARE], gradient[2] * curve[1, SHARE]
    bars[SLOPES, 0] = gradient[3] * curve[SLOPES, 0]
    bars[SLOPES, 1] = gradient[4] * curve[SLOPES, 1]


@njit(cache=True, fastmath=FLAGS)
def _product(bars, curve):  # type: ignore[no-untyped-def]
    """Return the inner products for widths and for heights, `(2, n)`."""
    left = bars[:SLOPES, LEFT] * curve[:SLOPES, LEFT]
    return left + bars[:SLOPES, SIZE] * curve[:SLOPES, SIZE]


@njit(cache=True, fastmath=FLAGS)
def _to_parameters(out, raw, rates, found, bars, means, limit):  # type: ignore[no-untyped-def]
    """Write the gradients with respect to raw sizes and slopes (section 5, "Sizes")."""
    bins, zero = len(rates) // 2, out.dtype.type(0)
    for k in range(2 * bins):
        row, rate, mean = out[k], rates[k], means[k // bins]
        left, size = bars[k // bins, LEFT], bars[k // bins, SIZE]
        this = out.dtype.type(k % bins)  # an integer would keep the loop from being vectorised
        for n in range(len(found)):
            own = size[n] if this == found[n] else zero
            row[n] = rate[n] * ((left[n] if this < found[n] else own) - mean[n])
    out[2 * bins :] = 0
    for n in range(len(found)):
        for side in range(2):
            row = 2 * bins - 1 + int(found[n]) + side
            if 2 * bins <= row < len(out):  # a knot inside
                shrink = limit / (limit + abs(raw[row, n]))
                out[row, n] = bars[SLOPES, side, n] * shrink * shrink


@njit(cache=True, fastmath=FLAGS)
def _move_curve(dots, raw, raw_dot, rates, curve, limit):  # type: ignore[no-untyped-def]
    """Compute tangents of left ends, sizes, logarithms of total sizes, and slopes."""
    bins, found, zero = len(rates) // 2, curve[SLOPES, BIN], dots.dtype.type(0)
    dots[:] = 0
    for k in range(2 * bins):
        left, size, total = dots[k // bins, LEFT], dots[k // bins, SIZE], dots[k // bins, SHARE]
        rate, dot, this = rates[k], raw_dot[k], dots.dtype.type(k % bins)
        for n in range(len(found)):
            grown = rate[n] * dot[n]
            left[n] += grown if this < found[n] else zero
            size[n] += grown if this == found[n] else zero
            total[n] += grown
    for axis in range(2):
        dots[axis] *= curve[axis, SHARE]
        dots[axis, LEFT] -= curve[axis, LEFT] * dots[axis, SHARE]
        dots[axis, SIZE] -= curve[axis, SIZE] * dots[axis, SHARE]
    for n in range(len(found)):
        for side in range(2):
            row = 2 * bins - 1 + int(found[n]) + side
            if 2 * bins <= row < len(raw):  # a knot inside
                shrink = limit / (limit + abs(raw[row, n]))
                dots[SLOPES, side, n] = curve[SLOPES, side, n] * shrink * shrink * raw_dot[row, n]


@njit(cache=True, fastmath=FLAGS)
def _add_turns(out, raw, raw_dot, s, totals_dot, size_limit, slope_limit):  # type: ignore[no-untyped-def]
    """Add what comes from the derivatives of `_to_parameters` with respect to the parameters."""
    bins, two = (len(raw) + 1) // 3, out.dtype.type(2)
    for k in range(len(raw)):
        row, value, dot, pull = out[k], raw[k], raw_dot[k], s[k]
        if k < 2 * bins:
            total_dot = totals_dot[k // bins]
            for n in range(len(row)):
                shrink = size_limit / (size_limit + abs(value[n]))
                bend = -two if value[n] > 0 else two
                row[n] += pull[n] * ((shrink + bend / size_limit) * shrink * dot[n] - total_dot[n])
        else:
            for n in range(len(row)):
                shrink = slope_limit / (slope_limit + abs(value[n]))
                bend = -two if value[n] > 0 else two
                row[n] += pull[n] * bend / slope_limit * shrink * dot[n]


@njit(cache=True, fastmath=FLAGS)
def _sum(a, b):  # type: ignore[no-untyped-def]
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4]
