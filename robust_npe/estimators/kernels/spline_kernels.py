"""Rational-quadratic splines and their gradient, compiled; `docs/kernels.md`, section 5.

One pass over the elements does what takes torch dozens of small operations, most of them on the
parameters of all bins.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from robust_npe.compiling import log_compilation

__all__ = ["backward", "curve_curvature", "curve_gradient", "forward", "inverse"]

FLAGS = {"contract", "nsz", "arcp"}  # non-finite numbers keep their meaning


@njit(cache=True, fastmath=FLAGS)
def _forward(x, phi, sizes, bound, slope_limit):  # type: ignore[no-untyped-def]
    """Return y and the log slope, for bins of relative widths and heights `sizes (2, K, D, N)`."""
    y, log_slope = x.copy(), np.zeros_like(x)
    for d in range(x.shape[0]):
        for n in range(x.shape[1]):
            if abs(x[d, n]) < bound:
                u = x[d, n] / (2 * bound) + 0.5
                k, left, width, low, height, _, _ = _find_bin(u, sizes, 0, d, n)
                s, xi = height / width, (u - left) / width
                d0, _, e, q = _curve(k, s, phi, d, n, slope_limit)
                denominator = s + q * xi * (1 - xi)
                rise = xi * (d0 + xi * e) / denominator
                y[d, n] = bound * (2 * (low + height * rise) - 1)
                log_slope[d, n] = _log_slope(xi, s, d0, e, q)
    return y, log_slope


@njit(cache=True, fastmath=FLAGS)
def _inverse(y, phi, sizes, bound, slope_limit):  # type: ignore[no-untyped-def]
    """Return x and the log slope there; see `_forward`."""
    x, log_slope = y.copy(), np.zeros_like(y)
    for d in range(y.shape[0]):
        for n in range(y.shape[1]):
            if abs(y[d, n]) < bound:
                v = y[d, n] / (2 * bound) + 0.5
                k, left, width, low, height, _, _ = _find_bin(v, sizes, 1, d, n)
                s, rise = height / width, v - low
                d0, _, e, q = _curve(k, s, phi, d, n, slope_limit)
                a, b = height * e + rise * q, height * d0 - rise * q
                c = -s * rise
                xi = 2 * c / (-b - math.sqrt(max(b * b - 4 * a * c, 0.0)))
                x[d, n] = bound * (2 * (left + xi * width) - 1)
                log_slope[d, n] = _log_slope(xi, s, d0, e, q)
    return x, log_slope


@njit(cache=True, fastmath=FLAGS)
def _backward(  # type: ignore[no-untyped-def]
    x, y_bar, log_slope_bar, phi, sizes, bound, slope_limit, size_limit
):
    """Return the gradients with respect to x and phi."""
    bins = sizes.shape[1]
    x_bar = y_bar.copy()
    layout = len(x), len(phi), x.shape[1]  # in memory, as that of networks
    phi_bar = np.zeros(layout, x.dtype).transpose(1, 0, 2)
    found = np.empty(x.shape[1], np.int32)
    # of left ends and sizes of the bins, and their mean over all bins, whose sizes add up to one
    left_size_mean = np.empty((2, 3, x.shape[1]), x.dtype)
    for d in range(x.shape[0]):
        left_size_mean[:] = 0
        for n in range(x.shape[1]):
            if abs(x[d, n]) < bound:
                u = x[d, n] / (2 * bound) + 0.5
                k, left, width, low, height, widths, heights = _find_bin(u, sizes, 0, d, n)
                s, xi = height / width, (u - left) / width
                d0, d1, e, q = _curve(k, s, phi, d, n, slope_limit)
                v_bar = 2 * bound * y_bar[d, n]
                u_bar, width_bar, height_bar, d0_bar, d1_bar = curve_gradient(
                    xi, s, d0, e, q, width, height, v_bar, log_slope_bar[d, n]
                )
                x_bar[d, n] = u_bar / (2 * bound)
                _to_slope(phi_bar, k, d, n, phi, slope_limit, d0_bar * d0)
                _to_slope(phi_bar, k + 1, d, n, phi, slope_limit, d1_bar * d1)
                found[n] = k
                left_size_mean[0, 0, n] = -u_bar / widths
                left_size_mean[0, 1, n] = width_bar / widths
                left_size_mean[0, 2, n] = (width_bar * width - u_bar * left) / widths
                left_size_mean[1, 0, n] = v_bar / heights
                left_size_mean[1, 1, n] = height_bar / heights
                left_size_mean[1, 2, n] = (height_bar * height + v_bar * low) / heights
        for axis in range(2):
            for k in range(bins):
                row = phi_bar[axis * bins + k, d]
                raw, size = phi[axis * bins + k, d], sizes[axis, k, d]
                _to_sizes(row, k, found, left_size_mean[axis], raw, size, x.dtype.type(size_limit))
    return x_bar, phi_bar


@njit(cache=True, fastmath=FLAGS)
def curve_gradient(xi, s, d0, e, q, width, height, v_bar, log_bar):  # type: ignore[no-untyped-def]
    """Return the gradients with respect to u, width, height, d0 and d1."""
    denominator = s + q * xi * (1 - xi)
    rise = xi * (d0 + xi * e) / denominator
    numerator = d0 + xi * (2 * e + xi * q)  # of the slope
    top_bar = v_bar * height / denominator  # of the numerator of the rise
    denominator_bar = -top_bar * rise - 2 * log_bar / denominator
    numerator_bar = log_bar / numerator
    e_bar = numerator_bar * 2 * xi + top_bar * xi * xi
    q_bar = numerator_bar * xi * xi + denominator_bar * xi * (1 - xi)
    s_bar = 2 * log_bar / s + denominator_bar + e_bar - 2 * q_bar
    d0_bar = numerator_bar + top_bar * xi - e_bar + q_bar
    xi_bar = (
        numerator_bar * 2 * (e + xi * q)
        + top_bar * (d0 + 2 * xi * e)
        + denominator_bar * q * (1 - 2 * xi)
    )
    u_bar = xi_bar / width
    return u_bar, -s_bar * s / width - u_bar * xi, v_bar * rise + s_bar / width, d0_bar, q_bar


@njit(cache=True, fastmath=FLAGS)
def curve_curvature(point, tangent, v_bar):  # type: ignore[no-untyped-def]
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


@njit(cache=True, fastmath=FLAGS)
def _find_bin(u, sizes, axis, d, n):  # type: ignore[no-untyped-def]
    """Return the bin of u, an x (axis 0) or y (1): its left and width, low and height, totals."""
    bins = sizes.shape[1]
    widths = heights = left = low = 0.0
    for k in range(bins):
        widths += sizes[0, k, d, n]
        heights += sizes[1, k, d, n]
    place = u * (heights if axis else widths)
    k = 0
    while k < bins - 1 and (low if axis else left) + sizes[axis, k, d, n] < place:
        left += sizes[0, k, d, n]
        low += sizes[1, k, d, n]
        k += 1
    width, height = sizes[0, k, d, n] / widths, sizes[1, k, d, n] / heights
    return k, left / widths, width, low / heights, height, widths, heights


@njit(cache=True, fastmath=FLAGS)
def _curve(k, s, phi, d, n, slope_limit):  # type: ignore[no-untyped-def]
    """Return the slopes at both ends of bin k, and how they differ from its mean slope `s`."""
    d0, d1 = _slope(phi, k, d, n, slope_limit), _slope(phi, k + 1, d, n, slope_limit)
    return d0, d1, s - d0, d0 + d1 - 2 * s


@njit(cache=True, fastmath=FLAGS)
def _slope(phi, knot, d, n, limit):  # type: ignore[no-untyped-def]
    """Return the slope at a knot: 1 at both ends, as that of the identity outside."""
    bins = (len(phi) + 1) // 3
    if knot == 0 or knot == bins:
        return 1.0
    raw = phi[2 * bins + knot - 1, d, n]
    return math.exp(raw / (1 + abs(raw) / limit))


@njit(cache=True, fastmath=FLAGS)
def _log_slope(xi, s, d0, e, q):  # type: ignore[no-untyped-def]
    scale = s / (s + q * xi * (1 - xi))
    return math.log(scale * scale * (d0 + xi * (2 * e + xi * q)))


@njit(cache=True, fastmath=FLAGS)
def _to_sizes(out, k, found, left_size_mean, raw, size, limit):  # type: ignore[no-untyped-def]
    """Write the gradients with respect to the raw width or height of bin k."""
    zero = out.dtype.type(0)
    for n in range(len(out)):
        left, own, mean = left_size_mean[0, n], left_size_mean[1, n], left_size_mean[2, n]
        pull = left if k < found[n] else (own if k == found[n] else zero)
        shrink = limit / (limit + abs(raw[n]))
        out[n] = (pull - mean) * size[n] * shrink * shrink


@njit(cache=True, fastmath=FLAGS)
def _to_slope(phi_bar, knot, d, n, phi, limit, log_bar):  # type: ignore[no-untyped-def]
    """Write the gradient with respect to a raw slope, from that with respect to its logarithm."""
    bins = (len(phi) + 1) // 3
    if 0 < knot < bins:
        shrink = 1 / (1 + abs(phi[2 * bins + knot - 1, d, n]) / limit)
        phi_bar[2 * bins + knot - 1, d, n] = log_bar * shrink * shrink


forward = log_compilation(_forward, "splines")
inverse = log_compilation(_inverse, "inverse splines")
backward = log_compilation(_backward, "the gradient of splines")
