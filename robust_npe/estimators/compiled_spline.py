"""Rational-quadratic splines as compiled code for the CPU; see `RationalQuadraticSpline`.

With torch a spline takes dozens of small operations, most of them on the parameters of all bins.
Here one pass over the elements does it, and another one the gradient. A gradient that is to be
differentiated again is left to torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from robust_npe.compiling import announced
from robust_npe.estimators.univariate import LOG_SLOPE_LIMIT

if TYPE_CHECKING:
    from robust_npe.estimators.univariate import RationalQuadraticSpline

__all__ = ["forward", "inverse"]

FLAGS = {"contract", "nsz", "arcp"}  # non-finite numbers keep their meaning


def forward(spline: RationalQuadraticSpline, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
    """Return f(x) and log f'(x) for `x (D, N)` and `phi (3 K - 1, D, N)`."""
    return _Spline.apply(spline, x, phi)


@torch.no_grad()
def inverse(spline: RationalQuadraticSpline, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
    """Return x with f(x) = y, and log f'(x), without graph; shapes as for `forward`."""
    arrays = (tensor.numpy() for tensor in (y.contiguous(), phi, spline.relative_sizes(phi)))
    x, log_slope = _announced_inverse(*arrays, spline.bound, LOG_SLOPE_LIMIT)
    return torch.from_numpy(x), torch.from_numpy(log_slope)


class _Spline(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, spline: RationalQuadraticSpline, x: Tensor, phi: Tensor
    ) -> tuple[Tensor, Tensor]:
        sizes = spline.relative_sizes(phi)
        ctx.spline = spline
        ctx.save_for_backward(x, phi, sizes)
        arrays = (tensor.numpy() for tensor in (x.contiguous(), phi, sizes))
        y, log_slope = _announced_forward(*arrays, spline.bound, LOG_SLOPE_LIMIT)
        return torch.from_numpy(y), torch.from_numpy(log_slope)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor, grad_log_slope: Tensor) -> tuple[Tensor | None, ...]:
        spline, (x, phi, sizes) = ctx.spline, ctx.saved_tensors
        cotangents = grad_y, grad_log_slope
        if torch.is_grad_enabled():
            return None, *_differentiable_gradient(spline, (x, phi), cotangents)
        # contiguous, since each layout would be compiled on its own
        rows = (tensor.contiguous() for tensor in (x, *cotangents))
        arrays = (tensor.numpy() for tensor in (*rows, phi, sizes))
        limits = LOG_SLOPE_LIMIT, spline.size_limit
        gradients = _announced_backward(*arrays, spline.bound, *limits)
        return None, *(torch.from_numpy(gradient) for gradient in gradients)


def _differentiable_gradient(
    spline: RationalQuadraticSpline, inputs: tuple[Tensor, ...], cotangents: tuple[Tensor, ...]
) -> list[Tensor | None]:
    # phi depends on x, so what is asked for are derivatives with respect to new names of them
    inputs = tuple(tensor.view_as(tensor) for tensor in inputs)
    needed = [i for i, tensor in enumerate(inputs) if tensor.requires_grad]
    outputs, wanted = spline.forward_by_torch(*inputs), [inputs[i] for i in needed]
    gradients = torch.autograd.grad(outputs, wanted, cotangents, create_graph=True)
    found = dict(zip(needed, gradients, strict=True))
    return [found.get(i) for i in range(len(inputs))]


@njit(cache=True, fastmath=FLAGS)
def _forward(x, phi, sizes, bound, slope_limit):  # type: ignore[no-untyped-def]
    """Return y and the log slope, for bins of relative widths and heights `sizes (2, K, D, N)`."""
    y, log_slope = x.copy(), np.zeros_like(x)
    for d in range(x.shape[0]):
        for n in range(x.shape[1]):
            if abs(x[d, n]) < bound:
                u = x[d, n] / (2 * bound) + 0.5
                k, left, width, low, height, _, _ = _find_bin(u, sizes, 0, d, n)
                ratio, z = height / width, (u - left) / width
                start, _, first, bend = _curve(k, ratio, phi, d, n, slope_limit)
                denominator = ratio + bend * z * (1 - z)
                rise = z * (start + z * first) / denominator
                y[d, n] = bound * (2 * (low + height * rise) - 1)
                log_slope[d, n] = _log_slope(z, ratio, start, first, bend)
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
                ratio, rise = height / width, v - low
                start, _, first, bend = _curve(k, ratio, phi, d, n, slope_limit)
                a, b = height * first + rise * bend, height * start - rise * bend
                c = -ratio * rise
                z = 2 * c / (-b - math.sqrt(max(b * b - 4 * a * c, 0.0)))
                x[d, n] = bound * (2 * (left + z * width) - 1)
                log_slope[d, n] = _log_slope(z, ratio, start, first, bend)
    return x, log_slope


@njit(cache=True, fastmath=FLAGS)
def _backward(  # type: ignore[no-untyped-def]
    x, grad_y, grad_log_slope, phi, sizes, bound, slope_limit, size_limit
):
    """Return the gradients with respect to x and phi; `g_a` is the gradient with respect to a."""
    bins = sizes.shape[1]
    grad_x = grad_y.copy()
    layout = len(x), len(phi), x.shape[1]  # in memory, as that of networks
    grad_phi = np.zeros(layout, x.dtype).transpose(1, 0, 2)
    found = np.empty(x.shape[1], np.int32)
    # of left ends and sizes of the bins, and their mean over all bins, whose sizes add up to one
    left_size_mean = np.empty((2, 3, x.shape[1]), x.dtype)
    for d in range(x.shape[0]):
        left_size_mean[:] = 0
        for n in range(x.shape[1]):
            if abs(x[d, n]) < bound:
                u = x[d, n] / (2 * bound) + 0.5
                k, left, width, low, height, widths, heights = _find_bin(u, sizes, 0, d, n)
                ratio, z = height / width, (u - left) / width
                start, end, first, bend = _curve(k, ratio, phi, d, n, slope_limit)
                denominator = ratio + bend * z * (1 - z)
                rise = z * (start + z * first) / denominator
                numerator = start + z * (2 * first + z * bend)  # of the slope

                g_v, g_log = 2 * bound * grad_y[d, n], grad_log_slope[d, n]
                g_top = g_v * height / denominator  # of the numerator of the rise
                g_denominator = -g_top * rise - 2 * g_log / denominator
                g_numerator = g_log / numerator
                g_first = g_numerator * 2 * z + g_top * z * z
                g_bend = g_numerator * z * z + g_denominator * z * (1 - z)
                g_ratio = 2 * g_log / ratio + g_denominator + g_first - 2 * g_bend
                g_start = g_numerator + g_top * z - g_first + g_bend
                g_z = (
                    g_numerator * 2 * (first + z * bend)
                    + g_top * (start + 2 * z * first)
                    + g_denominator * bend * (1 - 2 * z)
                )
                g_u = g_z / width
                g_width = -g_ratio * ratio / width - g_u * z
                g_height = g_v * rise + g_ratio / width
                grad_x[d, n] = g_u / (2 * bound)
                _to_slope(grad_phi, k, d, n, phi, slope_limit, g_start * start)
                _to_slope(grad_phi, k + 1, d, n, phi, slope_limit, g_bend * end)
                found[n] = k
                left_size_mean[0, 0, n] = -g_u / widths
                left_size_mean[0, 1, n] = g_width / widths
                left_size_mean[0, 2, n] = (g_width * width - g_u * left) / widths
                left_size_mean[1, 0, n] = g_v / heights
                left_size_mean[1, 1, n] = g_height / heights
                left_size_mean[1, 2, n] = (g_height * height + g_v * low) / heights
        for axis in range(2):
            for k in range(bins):
                row = grad_phi[axis * bins + k, d]
                raw, size = phi[axis * bins + k, d], sizes[axis, k, d]
                _to_sizes(row, k, found, left_size_mean[axis], raw, size, x.dtype.type(size_limit))
    return grad_x, grad_phi


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
def _curve(k, ratio, phi, d, n, slope_limit):  # type: ignore[no-untyped-def]
    """Return the slopes at both ends of bin k, and how they differ from its mean slope `ratio`."""
    start, end = _slope(phi, k, d, n, slope_limit), _slope(phi, k + 1, d, n, slope_limit)
    return start, end, ratio - start, start + end - 2 * ratio


@njit(cache=True, fastmath=FLAGS)
def _slope(phi, knot, d, n, limit):  # type: ignore[no-untyped-def]
    """Return the slope at a knot: 1 at both ends, as that of the identity outside."""
    bins = (len(phi) + 1) // 3
    if knot == 0 or knot == bins:
        return 1.0
    raw = phi[2 * bins + knot - 1, d, n]
    return math.exp(raw / (1 + abs(raw) / limit))


@njit(cache=True, fastmath=FLAGS)
def _log_slope(z, ratio, start, first, bend):  # type: ignore[no-untyped-def]
    scale = ratio / (ratio + bend * z * (1 - z))
    return math.log(scale * scale * (start + z * (2 * first + z * bend)))


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
def _to_slope(grad_phi, knot, d, n, phi, limit, g_log):  # type: ignore[no-untyped-def]
    """Write the gradient with respect to a raw slope, from that with respect to its logarithm."""
    bins = (len(phi) + 1) // 3
    if 0 < knot < bins:
        shrink = 1 / (1 + abs(phi[2 * bins + knot - 1, d, n]) / limit)
        grad_phi[2 * bins + knot - 1, d, n] = g_log * shrink * shrink


_announced_forward = announced(_forward, "splines")
_announced_inverse = announced(_inverse, "inverse splines")
_announced_backward = announced(_backward, "the gradient of splines")
