"""Base noise for means of functions that are nearly quadratic in it, such as squared scores.

`docs/kernels.md`, section 6, derives the weights.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import torch
from numba import njit
from torch import Generator, Tensor

from robust_npe.compiling import log_compilation

__all__ = ["weighted_noise"]

# this share of the norms is from chi(dim + 2), whose density is that of chi(dim) times norm^2 / dim
FAR = 0.8
QUANTILE = NormalDist().inv_cdf(FAR)


def weighted_noise(
    count: int, dim: int, generator: Generator, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Draw vectors z and weights w such that E[w f(z)] is the standard normal mean of any f.

    That holds for each vector alone. Together they have less error than independent normal ones:
    each z is followed by -z, the directions of `dim` such pairs are orthogonal, and large norms,
    where most of the mean of a quadratic function comes from, are drawn more often and weighted
    less.

    References:
        Yu et al. (2016), "Orthogonal random features", https://arxiv.org/abs/1610.09072;
        Hesterberg (1995), "Weighted average importance sampling and defensive mixture
        distributions", for the norms.

    Returns:
        Vectors as columns `(dim, count)`, and their weights `(count,)`.
    """
    normal = torch.randn(-(-count // 2), 2 * dim + 3, generator=generator, dtype=dtype)
    z, weight = _logged_place(normal.numpy(), count)
    return torch.from_numpy(z), torch.from_numpy(weight)


@njit(cache=True, fastmath={"contract", "reassoc"})
def _place(normal, count):  # type: ignore[no-untyped-def]
    """Make vectors from rows of normal numbers.

    There are `dim` numbers for the direction, `dim + 2` for the norm, and one to choose its law.
    """
    pairs, dim = len(normal), (normal.shape[1] - 3) // 2
    z, weight = np.empty((dim, count), normal.dtype), np.empty(count, normal.dtype)
    directions = normal[:, :dim].copy()
    for n in range(pairs):
        direction = directions[n]
        for m in range(n - n % dim, n):  # Gram-Schmidt makes the rotation a uniform one
            overlap = _dot(direction, directions[m])
            for i in range(dim):
                direction[i] -= overlap * directions[m, i]
        far = normal[n, -1] < QUANTILE
        numbers = normal[n, dim:-1] if far else normal[n, dim:-3]
        square, length = _dot(numbers, numbers), math.sqrt(_dot(direction, direction))
        if length == 0:  # a normal number in float32 is zero once in 25 million times
            direction[0] = length = 1.0
        for i in range(dim):
            direction[i] /= length
        for column, sign in ((2 * n, 1.0), (2 * n + 1, -1.0)):
            if column < count:
                weight[column] = 1 / (1 - FAR + FAR * square / dim)
                for i in range(dim):
                    z[i, column] = sign * direction[i] * math.sqrt(square)
    return z, weight


@njit(cache=True, fastmath={"contract", "reassoc"})
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = a.dtype.type(0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


_logged_place = log_compilation(_place, "the noise of samples")
