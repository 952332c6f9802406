"""What is particular to splines in the scores of a flow; `docs/kernels.md`, section 7.

Outputs of the conditioner are the raw widths, heights and inner slopes of each coordinate, one
after the other. What counts of a spline once the bin of each column is found is in `curves`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from robust_npe.estimators.kernels.spline_kernels import curve_gradient

__all__ = ["invert", "pull_back", "score"]

FLAGS = {"contract", "nsz", "arcp"}  # non-finite numbers keep their meaning
LEFT, SIZE, SHARE = range(3)  # of a bin: left end, size; one over the total size of all bins
SLOPES = 2  # what follows widths and heights: slopes at both ends, and the number of the bin
BIN = 2


@njit(cache=True, fastmath=FLAGS)
def invert(group, z, x, slope, outputs, sizes, curves, limit, spline):  # type: ignore[no-untyped-def]
    """Compute x with f(x) = z, its slope, the sizes of all bins and curves, for a group."""
    bound, size_limit = spline
    bins, clip = sizes.shape[1] // 2, z.dtype.type(size_limit)
    for d in range(*group):
        raw, curve = _parameters(outputs, d, bins), curves[d]
        for k in range(2 * bins):
            size = sizes[d, k]
            for n in range(len(size)):
                size[n] = raw[k, n] * clip / (clip + abs(raw[k, n]))
            for n in range(len(size)):  # on its own: a call keeps loops from being vectorised
                size[n] = math.exp(size[n])
        _find_bins(curve, z[d], sizes[d], bound)
        for n in range(z.shape[1]):
            for side in range(2):
                knot = int(curve[SLOPES, BIN, n]) + side
                curve[SLOPES, side, n] = _slope(raw[2 * bins :, n], knot, limit)
            x[d, n], slope[d, n] = _invert_curve(z[d, n], curve[:, :, n], bound)


@njit(cache=True, fastmath=FLAGS)
def score(s, x, u, outputs, sizes, curves, limit, spline):  # type: ignore[no-untyped-def]
    """Return the gradient of log q with respect to x at fixed outputs, and compute that with
    respect to these, s."""
    bound, size_limit = spline
    bins, clip = sizes.shape[1] // 2, x.dtype.type(size_limit)
    below = np.empty_like(x)
    bars = np.empty((3, 2, x.shape[1]), x.dtype)
    for d in range(len(x)):
        raw, out, curve = _parameters(outputs, d, bins), _parameters(s, d, bins), curves[d]
        for n in range(x.shape[1]):
            v_bar = 2 * bound * u[d, n]
            gradient = curve_gradient(*_point(x[d, n], curve[:, :, n], bound), v_bar, 1.0)
            below[d, n] = gradient[0] / (2 * bound)
            _store(bars[:, :, n], gradient, v_bar, curve[:, :, n])
        found = curve[SLOPES, BIN]
        for axis in range(2):
            rows = slice(axis * bins, (axis + 1) * bins)
            _to_sizes(out[rows], raw[rows], sizes[d, rows], found, curve[axis], bars[axis], clip)
        _to_slopes(out[2 * bins :], raw[2 * bins :], found, bars[SLOPES], limit)
    return below


@njit(cache=True, fastmath=FLAGS)
def pull_back(  # type: ignore[no-untyped-def]
    group, moving, x, slope, u, outputs, sizes, curves, limit, spline
):
    """Turn x_bar into z_bar, and compute z_dot and the gradients of F by outputs."""
    x_dot, x_bar, z_dot, outputs_dot, outputs_bar = moving
    bound, size_limit = spline
    bins, clip = sizes.shape[1] // 2, x.dtype.type(size_limit)
    dots = np.empty((3, 3, x.shape[1]), x.dtype)  # of curves
    first, second = np.empty_like(dots), np.empty_like(dots)  # gradients of log q, and of F
    for d in range(*group):
        raw, raw_dot = _parameters(outputs, d, bins), _parameters(outputs_dot, d, bins)
        out, curve = _parameters(outputs_bar, d, bins), curves[d]
        found = curve[SLOPES, BIN]
        for axis in range(2):
            rows = slice(axis * bins, (axis + 1) * bins)
            parts = raw[rows], raw_dot[rows], sizes[d, rows]
            _move_sizes(dots[axis], parts, found, curve[axis], clip)
        _move_slopes(dots[SLOPES], raw[2 * bins :], raw_dot[2 * bins :], curve[SLOPES], limit)
        for n in range(x.shape[1]):
            point = _point(x[d, n], curve[:, :, n], bound)
            tangent = _tangent(x_dot[d, n], point, dots[:, :, n], bound)
            v_bar = 2 * bound * u[d, n]
            rise_dot, gradient, gradient_dot = _curve_curvature(point, tangent, v_bar)
            z_dot[d, n] = 2 * bound * (dots[1, LEFT, n] + rise_dot)
            x_bar[d, n] = (x_bar[d, n] + gradient_dot[0] / (2 * bound)) / slope[d, n]
            z_pull = -2 * bound * x_bar[d, n]  # x moves by what z may not
            _store(first[:, :, n], gradient, v_bar, curve[:, :, n])
            pull = curve_gradient(*point, z_pull, 0.0)
            _store(second[:, :, n], _sum(gradient_dot, pull), z_pull, curve[:, :, n])
            second[SLOPES, 0, n] += gradient[3] * dots[SLOPES, 0, n]
            second[SLOPES, 1, n] += gradient[4] * dots[SLOPES, 1, n]
        for axis in range(2):
            rows = slice(axis * bins, (axis + 1) * bins)
            parts = raw[rows], raw_dot[rows], sizes[d, rows]
            of_bin = found, curve[axis], dots[axis], first[axis], second[axis]
            _to_moving_sizes(out[rows], parts, of_bin, clip)
        parts = raw[2 * bins :], raw_dot[2 * bins :]
        _to_moving_slopes(out[2 * bins :], parts, found, first[SLOPES], second[SLOPES], limit)


@njit(cache=True, fastmath=FLAGS)
def _parameters(outputs, d, bins):  # type: ignore[no-untyped-def]
    """Return the rows of coordinate d."""
    return outputs[d * (3 * bins - 1) : (d + 1) * (3 * bins - 1)]


@njit(cache=True, fastmath=FLAGS)
def _find_bins(curve, z, sizes, bound):  # type: ignore[no-untyped-def]
    """Find the bin of each z; outside, where f is the identity, one whose size does not matter."""
    bins = len(sizes) // 2
    zero, one = z.dtype.type(0), z.dtype.type(1)
    edge, v, found = np.zeros_like(z), np.empty_like(z), curve[SLOPES, BIN]
    curve[:] = 0
    for axis in range(2):
        for k in range(bins):
            curve[axis, SHARE] += sizes[axis * bins + k]
    for n in range(len(z)):
        v[n] = (z[n] / (2 * bound) + 0.5) * curve[1, SHARE, n]
    for k in range(bins - 1):
        size = sizes[bins + k]
        for n in range(len(z)):
            edge[n] += size[n]
            found[n] += one if edge[n] < v[n] else zero
    for axis in range(2):
        left, own, share = curve[axis, LEFT], curve[axis, SIZE], curve[axis, SHARE]
        for k in range(bins):
            size = sizes[axis * bins + k]
            for n in range(len(z)):
                left[n] += size[n] if k < found[n] else zero
                own[n] += size[n] if k == found[n] else zero
        for n in range(len(z)):
            inside = abs(z[n]) < bound
            left[n] = left[n] / share[n] if inside else zero
            own[n] = own[n] / share[n] if inside else one
            share[n] = one / share[n] if inside else zero
    for n in range(len(z)):
        found[n] = found[n] if abs(z[n]) < bound else -one


@njit(cache=True, fastmath=FLAGS)
def _slope(raw, knot, limit):  # type: ignore[no-untyped-def]
    """Return the slope at a knot: 1 at both ends, as that of the identity outside."""
    if 0 < knot <= len(raw):
        return math.exp(raw[knot - 1] * limit / (limit + abs(raw[knot - 1])))
    return 1.0


@njit(cache=True, fastmath=FLAGS)
def _point(x, curve, bound):  # type: ignore[no-untyped-def]
    """Return xi, s, d0, e, q, width and height at x."""
    width, height, d0, d1 = curve[0, SIZE], curve[1, SIZE], curve[SLOPES, 0], curve[SLOPES, 1]
    s, xi = height / width, (x / (2 * bound) + 0.5 - curve[0, LEFT]) / width
    return xi, s, d0, s - d0, d0 + d1 - 2 * s, width, height


@njit(cache=True, fastmath=FLAGS)
def _tangent(x_dot, point, curve_dot, bound):  # type: ignore[no-untyped-def]
    """Return the tangents of what `_point` returns."""
    xi, s, _, _, _, width, _ = point
    width_dot, height_dot = curve_dot[0, SIZE], curve_dot[1, SIZE]
    d0_dot, d1_dot = curve_dot[SLOPES, 0], curve_dot[SLOPES, 1]
    s_dot = (height_dot - s * width_dot) / width
    xi_dot = (x_dot / (2 * bound) - curve_dot[0, LEFT] - xi * width_dot) / width
    changes = s_dot - d0_dot, d0_dot + d1_dot - 2 * s_dot
    return xi_dot, s_dot, d0_dot, *changes, width_dot, height_dot


@njit(cache=True, fastmath=FLAGS)
def _invert_curve(z, curve, bound):  # type: ignore[no-untyped-def]
    """Return x with f(x) = z, and the slope there (section 5)."""
    width, height, d0, d1 = curve[0, SIZE], curve[1, SIZE], curve[SLOPES, 0], curve[SLOPES, 1]
    if curve[SLOPES, BIN] < 0:
        return z, 1.0
    s, rise = height / width, z / (2 * bound) + 0.5 - curve[1, LEFT]
    e, q = s - d0, d0 + d1 - 2 * s
    a, b, c = height * e + rise * q, height * d0 - rise * q, -s * rise
    xi = 2 * c / (-b - math.sqrt(max(b * b - 4 * a * c, 0.0)))
    scale = s / (s + q * xi * (1 - xi))
    slope = scale * scale * (d0 + xi * (2 * e + xi * q))
    return bound * (2 * (curve[0, LEFT] + xi * width) - 1), slope


@njit(cache=True, fastmath=FLAGS)
def _store(bars, gradient, v_bar, curve):  # type: ignore[no-untyped-def]
    """Write gradients with respect to left ends and sizes, over total sizes, and log slopes."""
    bars[0, LEFT], bars[0, SIZE] = -gradient[0] * curve[0, SHARE], gradient[1] * curve[0, SHARE]
    bars[1, LEFT], bars[1, SIZE] = v_bar * curve[1, SHARE], gradient[2] * curve[1, SHARE]
    bars[SLOPES, 0] = gradient[3] * curve[SLOPES, 0]
    bars[SLOPES, 1] = gradient[4] * curve[SLOPES, 1]


@njit(cache=True, fastmath=FLAGS)
def _to_sizes(out, raw, sizes, found, curve, bars, limit):  # type: ignore[no-untyped-def]
    """Write the gradients with respect to raw sizes."""
    mean = bars[LEFT] * curve[LEFT] + bars[SIZE] * curve[SIZE]
    zero = out.dtype.type(0)
    for k in range(len(sizes)):
        for n in range(len(found)):
            shrink = limit / (limit + abs(raw[k, n]))
            own = bars[SIZE, n] if k == found[n] else zero
            pull = bars[LEFT, n] if k < found[n] else own
            out[k, n] = sizes[k, n] * shrink * shrink * (pull - mean[n])


@njit(cache=True, fastmath=FLAGS)
def _to_slopes(out, raw, found, bars, limit):  # type: ignore[no-untyped-def]
    """Write the gradients with respect to raw slopes, from those with respect to log slopes."""
    out[:] = 0
    for n in range(len(found)):
        for side in range(2):
            knot = int(found[n]) + side
            if 0 < knot <= len(raw):
                shrink = limit / (limit + abs(raw[knot - 1, n]))
                out[knot - 1, n] = bars[side, n] * shrink * shrink


@njit(cache=True, fastmath=FLAGS)
def _move_sizes(dots, parts, found, curve, limit):  # type: ignore[no-untyped-def]
    """Compute tangents of left end and size of the bin found, and of the total log size."""
    raw, raw_dot, sizes = parts
    zero = dots.dtype.type(0)
    dots[:] = 0
    for k in range(len(sizes)):
        for n in range(len(found)):
            shrink = limit / (limit + abs(raw[k, n]))
            grown = sizes[k, n] * shrink * shrink * raw_dot[k, n]
            dots[LEFT, n] += grown if k < found[n] else zero
            dots[SIZE, n] += grown if k == found[n] else zero
            dots[SHARE, n] += grown
    dots *= curve[SHARE]
    dots[LEFT] -= curve[LEFT] * dots[SHARE]
    dots[SIZE] -= curve[SIZE] * dots[SHARE]


@njit(cache=True, fastmath=FLAGS)
def _move_slopes(dots, raw, raw_dot, curve, limit):  # type: ignore[no-untyped-def]
    """Compute tangents of the slopes at both ends."""
    dots[:] = 0
    for n in range(dots.shape[1]):
        for side in range(2):
            knot = int(curve[BIN, n]) + side
            if 0 < knot <= len(raw):
                shrink = limit / (limit + abs(raw[knot - 1, n]))
                dots[side, n] = curve[side, n] * shrink * shrink * raw_dot[knot - 1, n]


@njit(cache=True, fastmath=FLAGS)
def _to_moving_sizes(out, parts, of_bin, limit):  # type: ignore[no-untyped-def]
    """Write the gradients of F with respect to raw sizes: what moves is what `_to_sizes` writes."""
    raw, raw_dot, sizes = parts
    found, curve, dots, first, second = of_bin
    mean = first[LEFT] * curve[LEFT] + first[SIZE] * curve[SIZE]
    mean2 = second[LEFT] * curve[LEFT] + second[SIZE] * curve[SIZE]
    mean2 += first[LEFT] * dots[LEFT] + first[SIZE] * dots[SIZE]
    zero, two = out.dtype.type(0), out.dtype.type(2) / limit
    for k in range(len(sizes)):
        for n in range(len(found)):
            shrink = limit / (limit + abs(raw[k, n]))
            signed = two if raw[k, n] > zero else -two
            turn = (shrink - signed) * shrink * raw_dot[k, n] - dots[SHARE, n]
            own, own2 = (first[SIZE, n], second[SIZE, n]) if k == found[n] else (zero, zero)
            pull = first[LEFT, n] if k < found[n] else own
            pull2 = second[LEFT, n] if k < found[n] else own2
            change = pull2 - mean2[n] + turn * (pull - mean[n])
            out[k, n] = sizes[k, n] * shrink * shrink * change


@njit(cache=True, fastmath=FLAGS)
def _to_moving_slopes(out, parts, found, first, second, limit):  # type: ignore[no-untyped-def]
    """Write the gradients of F with respect to raw slopes, as `_to_moving_sizes`."""
    raw, raw_dot = parts
    out[:] = 0
    for n in range(len(found)):
        for side in range(2):
            knot = int(found[n]) + side
            if 0 < knot <= len(raw):
                shrink = limit / (limit + abs(raw[knot - 1, n]))
                turn = -2 * np.sign(raw[knot - 1, n]) * shrink / limit * raw_dot[knot - 1, n]
                change = second[side, n] + turn * first[side, n]
                out[knot - 1, n] = change * shrink * shrink


@njit(cache=True, fastmath=FLAGS)
def _sum(a, b):  # type: ignore[no-untyped-def]
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4]


@njit(cache=True, fastmath=FLAGS)
def _curve_curvature(point, tangent, v_bar):  # type: ignore[no-untyped-def]
    """Return the tangents of height * rise and of the gradients of v_bar * v + log slope, between
    them these: with respect to t, width, height, d0 and d1; lines as in `curve_gradient`."""
    xi, s, d0, e, q, width, height = point
    xi_dot, s_dot, d0_dot, e_dot, q_dot, width_dot, height_dot = tangent
    w, w_dot = xi * (1 - xi), (1 - 2 * xi) * xi_dot
    denominator, denominator_dot = s + q * w, s_dot + q_dot * w + q * w_dot
    f, f_dot = d0 + 2 * xi * e, d0_dot + 2 * (xi_dot * e + xi * e_dot)
    rise = xi * (d0 + xi * e) / denominator
    rise_dot = (xi_dot * f + xi * (d0_dot + xi * e_dot) - rise * denominator_dot) / denominator
    g, g_dot = e + xi * q, e_dot + xi_dot * q + xi * q_dot
    numerator_bar = 1 / (d0 + xi * (e + g))
    numerator_dot = d0_dot + xi_dot * (e + g) + xi * (e_dot + g_dot)
    numerator_bar_dot = -numerator_dot * numerator_bar * numerator_bar
    top_bar = v_bar * height / denominator
    top_bar_dot = (v_bar * height_dot - top_bar * denominator_dot) / denominator
    twice = 2 / denominator
    denominator_bar = -top_bar * rise - twice
    denominator_bar_dot = (
        twice * denominator_dot / denominator - top_bar_dot * rise - top_bar * rise_dot
    )
    e_bar = xi * (2 * numerator_bar + xi * top_bar)
    e_bar_dot = 2 * xi_dot * (numerator_bar + xi * top_bar) + xi * (
        2 * numerator_bar_dot + xi * top_bar_dot
    )
    q_bar = xi * xi * numerator_bar + w * denominator_bar
    q_bar_dot = (
        xi * (2 * xi_dot * numerator_bar + xi * numerator_bar_dot)
        + w_dot * denominator_bar
        + w * denominator_bar_dot
    )
    s_bar = 2 / s + denominator_bar + e_bar - 2 * q_bar
    s_bar_dot = -2 * s_dot / (s * s) + denominator_bar_dot + e_bar_dot - 2 * q_bar_dot
    d0_bar = numerator_bar + xi * top_bar - e_bar + q_bar
    d0_bar_dot = numerator_bar_dot + xi_dot * top_bar + xi * top_bar_dot - e_bar_dot + q_bar_dot
    turn, turn_dot = q * (1 - 2 * xi), q_dot * (1 - 2 * xi) - 2 * q * xi_dot
    t_bar = (2 * g * numerator_bar + f * top_bar + turn * denominator_bar) / width
    xi_bar_dot = (
        2 * (g_dot * numerator_bar + g * numerator_bar_dot)
        + (f_dot * top_bar + f * top_bar_dot)
        + (turn_dot * denominator_bar + turn * denominator_bar_dot)
    )
    t_bar_dot = (xi_bar_dot - t_bar * width_dot) / width
    h_bar, h_bar_dot = s_bar / width, (s_bar_dot - s_bar / width * width_dot) / width
    gradient = (
        t_bar,
        -h_bar * s - t_bar * xi,
        v_bar * rise + h_bar,
        d0_bar,
        q_bar,
    )
    gradient_dot = (
        t_bar_dot,
        -h_bar_dot * s - h_bar * s_dot - t_bar_dot * xi - t_bar * xi_dot,
        v_bar * rise_dot + h_bar_dot,
        d0_bar_dot,
        q_bar_dot,
    )
    return height_dot * rise + height * rise_dot, gradient, gradient_dot
