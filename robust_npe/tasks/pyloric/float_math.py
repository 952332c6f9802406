"""Elementary functions in float32 without branches, so that loops over lanes become vector code.

The polynomials are minimax fits of the relative error; the errors given are those of the fits, to
which float32 rounding (6e-8) adds. An error of 3e-6 in
exp((V + a)/b) is one of b * 3e-6 in V, a few units in the last place of V.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

__all__ = ["FLAGS", "exp_of_v", "exp_row", "larger", "log", "one_minus_exp", "sincos_pi", "smaller"]

# Reassociation stays off: rounding to integers relies on (x + big) - big.
FLAGS = {"contract", "arcp", "nnan", "ninf", "nsz"}

F = np.float32
I = np.int32  # noqa: E741
_LOG2E = 1.0 / math.log(2.0)
_LN2 = F(math.log(2.0))
_ROUND = F(1.5 * 2**23)  # adding it leaves the nearest integer in the low bits of a float32
_SQRT_HALF_BITS = I(0x3F3504F3)
_EXP2 = (0.999999284, 0.693121788, 0.240247446, 0.0559178591, 0.00957010128)


def exp_row(a: float, b: float, factor: float = 1.0) -> list[float]:
    """Return the numbers with which `exp_of_v` computes factor * exp((V + a)/b).

    They are the slope of the exponent of two, minus the slope (with one constant for both, the
    compiler would form the product once and round it, instead of two fused operations), and the
    coefficients of a polynomial in minus the fractional part, which contain the factor.
    """
    slope = _LOG2E / b
    scale = factor * math.exp(a / b)
    return [slope, -slope, *(scale * x * (-1) ** i for i, x in enumerate(_EXP2))]


@njit(forceinline=True, fastmath=FLAGS)
def smaller(a: Any, b: Any) -> Any:
    """min(a, b), which numba does not translate for GPUs."""
    return a if a < b else b


@njit(forceinline=True, fastmath=FLAGS)
def larger(a: Any, b: Any) -> Any:
    """max(a, b)."""
    return a if a > b else b


@njit(forceinline=True, fastmath=FLAGS)
def _scale(x: Any, shifted: Any) -> Any:
    """Multiply `x` by 2^n, where n stands in the low bits of `shifted`."""
    return I(np.float32(x).view(I) + I(np.float32(shifted).view(I) << I(23))).view(F)


@njit(forceinline=True, fastmath=FLAGS)
def exp_of_v(v: Any, row: Any) -> Any:
    """exp((V + a)/b) with the numbers of `exp_row(a, b)`, relative error 3e-6."""
    v = F(v)
    shifted = v * row[0] + _ROUND
    f = v * row[1] + (shifted - _ROUND)
    p = row[5] + f * row[6]
    p = row[4] + f * p
    p = row[3] + f * p
    p = row[2] + f * p
    return _scale(p, shifted)


@njit(forceinline=True, fastmath=FLAGS)
def one_minus_exp(x: Any) -> Any:
    """1 - e^-x for 0 <= x, relative error 5e-7 also for small x."""
    t = F(smaller(x, F(80.0))) * F(-_LOG2E)
    shifted = t + _ROUND
    f = t - (shifted - _ROUND)
    p = F(0.00966624543) + f * F(0.00133335381)
    p = F(0.0555050039) + f * p
    p = F(0.240223512) + f * p
    p = F(0.693147123) + f * p
    power = _scale(F(1.0), shifted)
    return (F(1.0) - power) - power * (f * p)


@njit(forceinline=True, fastmath=FLAGS)
def log(x: Any) -> Any:
    """Natural logarithm of a positive normal number, error 3e-6."""
    bits = I(np.float32(x).view(I) - _SQRT_HALF_BITS)
    exponent = I(bits >> I(23))
    t = I(I(bits & I(0x7FFFFF)) + _SQRT_HALF_BITS).view(F) - F(1.0)
    p = F(0.220559329) + t * F(-0.142920583)
    p = F(-0.254032701) + t * p
    p = F(0.332580239) + t * p
    p = F(-0.499902189) + t * p
    p = F(1.00000453) + t * p
    return F(exponent) * _LN2 + p * t


@njit(forceinline=True, fastmath=FLAGS)
def sincos_pi(t: Any) -> Any:
    """sin(pi t) and cos(pi t) for -1 <= t <= 1, from those of half the angle; error 3e-7."""
    u = t * t
    s = F(-0.00467376644) + u * F(0.000151485122)
    s = F(0.0796896815) + u * s
    s = F(-0.645963728) + u * s
    s = (F(1.57079637) + u * s) * t
    c = F(-0.0208106283) + u * F(0.000858190644)
    c = F(0.253650755) + u * c
    c = F(-1.23369825) + u * c
    c = F(0.99999994) + u * c
    return F(2.0) * s * c, F(1.0) - F(2.0) * s * s
