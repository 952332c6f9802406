"""The splines' part in the scores of a flow; `docs/kernels.md`, section 7.

`rest` is filled by `spline_value_kernels`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from robust_npe.estimators.kernels.spline_kernels import curve_curvature, curve_gradient
from robust_npe.estimators.kernels.spline_value_kernels import (
    BIN,
    FIRST,
    HEIGHTS,
    LEFT,
    SECOND,
    SHARE,
    SIZE,
    SLOPES,
    WIDTHS,
    parameters,
    point_of,
    rates_and_curves,
)

__all__ = ["pull_back", "score"]

FLAGS = {"contract", "nsz", "arcp"}  # non-finite numbers keep their meaning


@njit(cache=True, fastmath=FLAGS)
def score(s, x, u, outputs, rest, limit, spline):  # type: ignore[no-untyped-def]
    """Return the gradient of log q with respect to x at fixed outputs, and compute that with
    respect to these, s."""
    bound, _ = spline
    rates, curves = rates_and_curves(rest, len(x))
    bins = rates.shape[1] // 2
    below = np.empty_like(x)
    bars = np.empty((3, 2, x.shape[1]), x.dtype)
    for d in range(len(x)):
        curve = curves[d]
        for n in range(x.shape[1]):
            v_bar = 2 * bound * u[d, n]
            gradient = curve_gradient(*point_of(x[d, n], curve[:, :, n], bound), v_bar, 1.0)  # type: ignore[call-arg]
            below[d, n] = gradient[0] / (2 * bound)
            _store(bars[:, :, n], gradient, v_bar, curve[:, :, n])
        raw, out = parameters(outputs, d, bins), parameters(s, d, bins)
        means = _product(bars, curve)
        _to_parameters(out, raw, rates[d], curve[SLOPES, BIN], bars, means, limit)
    return below


@njit(cache=True, fastmath=FLAGS)
def pull_back(group, moving, x, slope, u, outputs, s, rest, limit, spline):  # type: ignore[no-untyped-def]
    """Turn x_bar into z_bar, and compute z_dot and the gradients of F by outputs."""
    x_dot, x_bar, z_dot, outputs_dot, outputs_bar = moving
    bound, size_limit = spline
    rates, curves = rates_and_curves(rest, len(x))
    bins, clip = rates.shape[1] // 2, x.dtype.type(size_limit)
    dots = np.empty_like(curves[0])
    first = np.empty((3, 2, x.shape[1]), x.dtype)  # gradients of log q, as in `score`
    second = np.empty_like(first)  # gradients of F
    for d in range(*group):
        raw, raw_dot = parameters(outputs, d, bins), parameters(outputs_dot, d, bins)
        curve, out = curves[d], parameters(outputs_bar, d, bins)
        _move_curve(dots, raw, raw_dot, rates[d], curve, limit)
        for n in range(x.shape[1]):
            point = point_of(x[d, n], curve[:, :, n], bound)
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
        _add_turns(out, raw, raw_dot, parameters(s, d, bins), dots[:SLOPES, SHARE], clip, limit)


@njit(cache=True, fastmath=FLAGS)
def _tangent(x_dot, point, curve_dot, bound):  # type: ignore[no-untyped-def]
    """Return the tangents of what `point_of` returns."""
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
