"""What is particular to splines in the scores of a flow; `docs/kernels.md`, section 7.

Outputs of the conditioner are the raw widths, heights and inner slopes of each coordinate, one
after the other. As in `spline_kernels`, phi is `(3 K - 1, D, n)` and sizes `(2, K, D, n)`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from robust_npe.estimators.kernels.spline_kernels import (
    backward_kernel,
    curve,
    curve_gradient,
    find_bin,
    inverse_kernel,
)

__all__ = ["invert", "pull_back", "score"]

FLAGS = {"contract", "nsz", "arcp"}  # non-finite numbers keep their meaning


@njit(cache=True, fastmath=FLAGS)
def invert(start, stop, z, x, slope, outputs, sizes, limit, spline):  # type: ignore[no-untyped-def]
    """Compute x with f(x) = z, its slope and the sizes, for coordinates from start to stop."""
    bound, size_limit = spline
    phi = _by_parameter(outputs, len(z))
    _, bins, _, columns = sizes.shape
    clip = z.dtype.type(size_limit)
    for d in range(start, stop):
        for axis in range(2):
            for k in range(bins):
                raw, size = phi[axis * bins + k, d], sizes[axis, k, d]
                for n in range(columns):
                    size[n] = raw[n] * clip / (clip + abs(raw[n]))
                for n in range(columns):  # on its own: a call keeps loops from being vectorised
                    size[n] = math.exp(size[n])
    group = slice(start, stop)
    x[group], log_slope = inverse_kernel(z[group], phi[:, group], sizes[:, :, group], bound, limit)
    slope[group] = np.exp(log_slope)


@njit(cache=True, fastmath=FLAGS)
def score(s, x, u, outputs, sizes, limit, spline):  # type: ignore[no-untyped-def]
    """Return the gradient of log q with respect to x at fixed outputs, and compute that with
    respect to these, s."""
    bound, size_limit = spline
    phi, ones = _by_parameter(outputs, len(x)), np.ones_like(x)
    below, phi_bar = backward_kernel(x, u, ones, phi, sizes, bound, limit, size_limit)
    _by_parameter(s, len(x))[:] = phi_bar
    return below


@njit(cache=True, fastmath=FLAGS)
def pull_back(  # type: ignore[no-untyped-def]
    group, moving, x, slope, u, outputs, sizes, limit, spline
):
    """Turn x_bar into z_bar, and compute z_dot and the gradients of F by outputs."""
    x_dot, x_bar, z_dot, dots, bars = moving
    bound, size_limit = spline
    _, bins, dim, columns = sizes.shape
    phi, phi_dot = _by_parameter(outputs, dim), _by_parameter(dots, dim)
    phi_bar, clip = _by_parameter(bars, dim), x.dtype.type(size_limit)
    found = np.empty(columns, np.int32)
    place = np.empty((2, 3, columns), x.dtype)  # of bins: left ends, sizes, and total sizes
    moved = np.empty_like(place)  # tangents of the first two, and of the logarithm of the third
    # gradients of log q (first) and F (second) for left ends and sizes, all over total sizes
    first, second = np.empty((2, 2, columns), x.dtype), np.empty((2, 2, columns), x.dtype)
    for d in range(*group):
        phi_bar[2 * bins :, d] = 0
        first[:], second[:] = 0, 0
        _find_bins(found, place, x[d], sizes, d, bound)
        for axis in range(2):
            rows = slice(axis * bins, (axis + 1) * bins)
            raw = sizes[axis, :, d], phi[rows, d], phi_dot[rows, d]
            _move_bins(moved[axis], raw, found, place[axis], clip)
        row = x[d], slope[d], u[d], x_dot[d], x_bar[d], z_dot[d]
        of_bins = found, place, moved, first, second
        _pull_back_curves(d, row, of_bins, phi, phi_dot, phi_bar, bound, limit)
        for axis in range(2):
            rows = slice(axis * bins, (axis + 1) * bins)
            raw = sizes[axis, :, d], phi[rows, d], phi_dot[rows, d]
            bin_arrays = found, place[axis], moved[axis], first[axis], second[axis]
            _to_sizes(phi_bar[rows, d], raw, bin_arrays, clip)


@njit(cache=True, fastmath=FLAGS)
def _by_parameter(outputs, dim):  # type: ignore[no-untyped-def]
    """Move the parameters of each coordinate to the front, as `BoundConditioner.unpack`."""
    return outputs.reshape(dim, len(outputs) // dim, outputs.shape[1]).transpose(1, 0, 2)


@njit(cache=True, fastmath=FLAGS)
def _find_bins(found, place, x, sizes, d, bound):  # type: ignore[no-untyped-def]
    """Compute the bin of each x, -1 outside, and where it is."""
    for n in range(len(x)):
        found[n], place[:, :, n] = -1, 1
        if abs(x[n]) < bound:
            t = x[n] / (2 * bound) + 0.5
            k, left, width, low, height, widths, heights = find_bin(t, sizes, 0, d, n)
            found[n] = k
            place[0, 0, n], place[0, 1, n], place[0, 2, n] = left, width, widths
            place[1, 0, n], place[1, 1, n], place[1, 2, n] = low, height, heights


@njit(cache=True, fastmath=FLAGS)
def _move_bins(moved, raw, found, place, limit):  # type: ignore[no-untyped-def]
    """Compute tangents of left end and size of the bin found, and of the total log size."""
    sizes, phi, phi_dot = raw
    zero = moved.dtype.type(0)
    moved[:] = 0
    for k in range(len(sizes)):
        for n in range(len(found)):
            shrink = limit / (limit + abs(phi[k, n]))
            grown = sizes[k, n] * shrink * shrink * phi_dot[k, n]
            moved[0, n] += grown if k < found[n] else zero
            moved[1, n] += grown if k == found[n] else zero
            moved[2, n] += grown
    moved /= place[2]
    moved[0] -= place[0] * moved[2]
    moved[1] -= place[1] * moved[2]


@njit(cache=True, fastmath=FLAGS)
def _pull_back_curves(d, row, of_bins, phi, phi_dot, phi_bar, bound, limit):  # type: ignore[no-untyped-def]
    """Do what `pull_back` does, for raw sizes up to the gradients of left ends and sizes."""
    x, slope, u, x_dot, x_bar, z_dot = row
    found, place, moved, first, second = of_bins
    for n in range(len(x)):
        k = found[n]
        if k < 0:
            z_dot[n] = x_dot[n]
            continue
        left, width, widths = place[0, 0, n], place[0, 1, n], place[0, 2, n]
        height, heights = place[1, 1, n], place[1, 2, n]
        width_dot, height_dot = moved[0, 1, n], moved[1, 1, n]
        s, xi = height / width, (x[n] / (2 * bound) + 0.5 - left) / width
        s_dot = (height_dot - s * width_dot) / width
        xi_dot = (x_dot[n] / (2 * bound) - moved[0, 0, n] - xi * width_dot) / width
        d0, d1, e, q = curve(k, s, phi, d, n, limit)
        d0_dot = d0 * _log_slope_dot(k, d, n, phi, phi_dot, limit)
        d1_dot = d1 * _log_slope_dot(k + 1, d, n, phi, phi_dot, limit)
        rise_dot, grad, grad_dot = _curve_curvature(
            (xi, s, d0, d1, width, height),
            (xi_dot, s_dot, d0_dot, d1_dot, width_dot, height_dot),
            2 * bound * u[n],
        )
        z_dot[n] = 2 * bound * (moved[1, 0, n] + rise_dot)
        x_bar[n] = (x_bar[n] + grad_dot[0] / (2 * bound)) / slope[n]
        v_bar = -2 * bound * x_bar[n]  # implicitly, as x moves by what z does not
        pull = curve_gradient(xi, s, d0, e, q, width, height, v_bar, 0.0)
        _to_slope(k, d, n, phi, phi_dot, phi_bar, limit, d0, grad[3], grad_dot[3] + pull[3])
        _to_slope(k + 1, d, n, phi, phi_dot, phi_bar, limit, d1, grad[4], grad_dot[4] + pull[4])
        first[0, 0, n], first[0, 1, n] = -grad[0] / widths, grad[1] / widths
        first[1, 0, n], first[1, 1, n] = 2 * bound * u[n] / heights, grad[2] / heights
        second[0, 0, n] = -(grad_dot[0] + pull[0]) / widths
        second[0, 1, n] = (grad_dot[1] + pull[1]) / widths
        second[1, 0, n] = v_bar / heights
        second[1, 1, n] = (grad_dot[2] + pull[2]) / heights


@njit(cache=True, fastmath=FLAGS)
def _curve_curvature(values, tangents, v_bar):  # type: ignore[no-untyped-def]
    """Return the tangents of height * rise and of the gradients of v_bar * v + log slope, between
    them these: with respect to t, width, height, d0 and d1; lines as in `curve_gradient`."""
    xi, s, d0, d1, width, height = values
    xi_dot, s_dot, d0_dot, d1_dot, width_dot, height_dot = tangents
    e, e_dot = s - d0, s_dot - d0_dot
    q, q_dot = d0 + d1 - 2 * s, d0_dot + d1_dot - 2 * s_dot
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
def _log_slope_dot(knot, d, n, phi, phi_dot, limit):  # type: ignore[no-untyped-def]
    """Return the tangent of the log slope at a knot, see `spline_kernels.slope`."""
    bins = (len(phi) + 1) // 3
    if knot == 0 or knot == bins:
        return 0.0
    row = 2 * bins + knot - 1
    shrink = 1 / (1 + abs(phi[row, d, n]) / limit)
    return shrink * shrink * phi_dot[row, d, n]


@njit(cache=True, fastmath=FLAGS)
def _to_slope(  # type: ignore[no-untyped-def]
    knot, d, n, phi, phi_dot, phi_bar, limit, slope, first, second
):
    """Write the gradient of F with respect to a raw slope, from those of log q and F with respect
    to the slope."""
    bins = (len(phi) + 1) // 3
    if 0 < knot < bins:
        row = 2 * bins + knot - 1
        raw, raw_dot = phi[row, d, n], phi_dot[row, d, n]
        shrink = 1 / (1 + abs(raw) / limit)
        bend = (shrink - 2 / limit * np.sign(raw)) * shrink * raw_dot
        phi_bar[row, d, n] = slope * shrink * shrink * (second + first * bend)


@njit(cache=True, fastmath=FLAGS)
def _to_sizes(out, raw, of_bins, limit):  # type: ignore[no-untyped-def]
    """Write the gradients of F with respect to raw sizes, from those of log q and F with respect
    to left ends and sizes of bins."""
    sizes, phi, phi_dot = raw
    found, place, moved, first, second = of_bins
    first_mean = first[0] * place[0] + first[1] * place[1]
    second_mean = second[0] * place[0] + second[1] * place[1]
    second_mean += first[0] * moved[0] + first[1] * moved[1]
    zero, two = out.dtype.type(0), out.dtype.type(2)
    for k in range(len(sizes)):
        for n in range(len(found)):
            shrink = limit / (limit + abs(phi[k, n]))
            sign = two if phi[k, n] > zero else -two
            bend = (shrink - sign / limit) * shrink * phi_dot[k, n] - moved[2, n]
            own, left = k == found[n], k < found[n]
            pull = first[0, n] if left else (first[1, n] if own else zero)
            pull2 = second[0, n] if left else (second[1, n] if own else zero)
            change = pull2 - second_mean[n] + bend * (pull - first_mean[n])
            out[k, n] = sizes[k, n] * shrink * shrink * change
