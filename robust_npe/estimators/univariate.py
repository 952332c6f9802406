r"""Monotone functions of one variable: what an autoregressive flow applies to each coordinate.

A univariate transform maps x to y = f(x; phi). Its parameters phi carry a leading axis of length
`num_parameters`; everything else is elementwise, so any layout of the other axes works.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import override

from robust_npe.checks import require, require_positive, require_positive_integer

__all__ = ["Affine", "AffineSpline", "RationalQuadraticSpline", "Univariate"]

MIN_SLOPE = 1e-3  # slopes and relative bin sizes stay between this and its inverse
LOG_SLOPE_LIMIT = -math.log(MIN_SLOPE)


class Univariate(Protocol):
    """An invertible function of one variable with unconstrained parameters."""

    num_parameters: int

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Return f(x) and log f'(x) for `x (*)` and `phi (num_parameters, *)`."""
        ...

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Return x with f(x) = y, and log f'(x)."""
        ...

    def derivatives(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Return df/dx `(*)` and df/dphi `(num_parameters, *)`, without graph."""
        ...


def soft_clip(a: Tensor, bound: float) -> Tensor:
    """Map R smoothly to (-bound, bound), with slope 1 at zero: a / (1 + |a| / bound)."""
    # written without abs, whose second derivative is costly zeros
    return a / (1 + a * (a.detach().sign() / bound))


class Affine(Univariate):
    """f(x) = exp(a) x + b, with a softly limited to |a| < -log MIN_SLOPE."""

    num_parameters = 2

    @override
    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_slope = phi[0], soft_clip(phi[1], LOG_SLOPE_LIMIT)
        return torch.addcmul(shift, x, log_slope.exp()), log_slope

    @override
    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_slope = phi[0], soft_clip(phi[1], LOG_SLOPE_LIMIT)
        return (y - shift) * (-log_slope).exp(), log_slope

    @override
    @torch.no_grad()
    def derivatives(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        shrink = 1 / (1 + phi[1].abs() / LOG_SLOPE_LIMIT)
        slope = (phi[1] * shrink).exp()
        return slope, torch.stack((torch.ones_like(x), x * slope * shrink.square()))


class AffineSpline(Univariate):
    """A spline after an affine function, whose two parameters come first.

    The affine function brings the bulk of a distribution, however narrow and wherever it is, to
    where the bins of the spline are.

    Args:
        spline: What is applied after it.
    """

    def __init__(self, spline: RationalQuadraticSpline) -> None:
        self.affine = Affine()
        self.spline = spline
        self.num_parameters = self.affine.num_parameters + spline.num_parameters

    @override
    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        first, rest = self._parts(phi)
        y, affine_slope = self.affine.forward(x, first)
        z, spline_slope = self.spline.forward(y, rest)
        return z, affine_slope + spline_slope

    @override
    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        first, rest = self._parts(phi)
        y, spline_slope = self.spline.inverse(y, rest)
        x, affine_slope = self.affine.inverse(y, first)
        return x, affine_slope + spline_slope

    @override
    @torch.no_grad()
    def derivatives(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        first, rest = self._parts(phi)
        y, _ = self.affine.forward(x, first)
        outer, slope_spline = self.spline.derivatives(y, rest)
        inner, slope_affine = self.affine.derivatives(x, first)
        return outer * inner, torch.cat((outer * slope_affine, slope_spline))

    def _parts(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        first, rest = phi.split([self.affine.num_parameters, self.spline.num_parameters])
        return first, rest


class RationalQuadraticSpline(Univariate):
    """Monotone rational-quadratic spline on [-bound, bound], the identity outside.

    References:
        Durkan et al. (2019), "Neural spline flows", https://arxiv.org/abs/1906.04032

    Args:
        bins: Number of bins K. The parameters are K widths, K heights and K - 1 slopes at the
            inner knots.
        bound: Half of the width of the interval.
    """

    def __init__(self, bins: int, bound: float) -> None:
        require_positive_integer("estimator.bins", bins)
        require(bins > 1, "estimator.bins", bins, "at least 2")
        require_positive("estimator.bound", bound)
        self.bins = bins
        self.bound = bound
        self.num_parameters = 3 * bins - 1
        self.size_limit = LOG_SLOPE_LIMIT / 2  # of the logarithm

    @override
    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        inside, u = self._to_unit(x)
        left, size, slopes = self._find_bin(u, phi, axis=0)
        s = size[1] / size[0]
        xi = (u - left[0]) / size[0]
        e, q = s - slopes[0], slopes[0] + slopes[1] - 2 * s
        denominator = _denominator(xi, s, q)
        rise = xi * torch.addcmul(slopes[0], xi, e) / denominator
        y = torch.addcmul(left[1], size[1], rise)
        log_slope = _log_slope(xi, s, slopes[0], e, q, denominator)
        return self._from_unit(inside, y, x), torch.where(inside, log_slope, 0.0)

    @override
    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        inside, v = self._to_unit(y)
        left, size, slopes = self._find_bin(v, phi, axis=1)
        s = size[1] / size[0]
        e, q = s - slopes[0], slopes[0] + slopes[1] - 2 * s
        rise = v - left[1]
        a = size[1] * e + rise * q
        b = size[1] * slopes[0] - rise * q
        c = -s * rise
        xi = 2 * c / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())
        denominator = _denominator(xi, s, q)
        log_slope = _log_slope(xi, s, slopes[0], e, q, denominator)
        x = self._from_unit(inside, left[0] + xi * size[0], y)
        return x, torch.where(inside, log_slope, 0.0)

    @override
    def derivatives(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        x, phi = x.detach().requires_grad_(), phi.detach().requires_grad_()
        with torch.enable_grad():
            y, _ = self.forward(x, phi)
            slope, slope_phi = torch.autograd.grad(y.sum(), (x, phi))
        return slope, slope_phi

    def relative_sizes(self, phi: Tensor) -> Tensor:
        """Return widths and heights of all bins, `(2, K, *)`, up to factors."""
        # no maximum has to be subtracted before exp: the clipped values are small
        sizes = soft_clip(phi[: 2 * self.bins], self.size_limit).exp()
        return sizes.unflatten(0, (2, self.bins))

    def _to_unit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inside = x.abs() < self.bound
        return inside, torch.where(inside, x, 0.0) / (2 * self.bound) + 0.5

    def _from_unit(self, inside: Tensor, u: Tensor, outside: Tensor) -> Tensor:
        return torch.where(inside, self.bound * (2 * u - 1), outside)

    def _find_bin(self, u: Tensor, phi: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return lower left corner, size, and slopes at both ends of the bin of u, each `(2, *)`.

        The axis tells whether u is an x (0) or a y (1).
        """
        parts, inner = self.relative_sizes(phi), phi[2 * self.bins :]
        share = parts.sum(1).reciprocal()
        with torch.no_grad():
            edges = parts[axis, :-1].cumsum(0)
            below = edges < u / share[axis]  # knots below u, and so are the bins left of them
            index = below.sum(0)
            below = below.to(u.dtype)
        left = (parts[:, :-1] * below).sum(1) * share
        size = parts.gather(1, index.expand(2, 1, *index.shape)).squeeze(1) * share
        # the log slope at both ends of the interval is zero, as that of the identity outside
        padded = torch.nn.functional.pad(inner, (0, 0) * u.ndim + (1, 1))
        raw = padded.gather(0, torch.stack((index, index + 1)))
        slopes = soft_clip(raw, LOG_SLOPE_LIMIT).exp()
        return left, size, slopes


def _denominator(xi: Tensor, s: Tensor, q: Tensor) -> Tensor:
    """Denominator of the rational function in the bin's own coordinate xi in [0, 1]."""
    return torch.addcmul(s, q, torch.addcmul(xi, xi, xi, value=-1))


def _log_slope(
    xi: Tensor, s: Tensor, d0: Tensor, e: Tensor, q: Tensor, denominator: Tensor
) -> Tensor:
    """Logarithm of the derivative, whose numerator is quadratic in xi."""
    numerator = torch.addcmul(d0, xi, torch.addcmul(2 * e, xi, q))
    return (s / denominator).square().mul(numerator).log()
