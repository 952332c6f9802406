"""Counter-based normal numbers in float32.

Philox4x32 with ten rounds (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as
1, 2, 3") turns a counter into four random words, Box-Muller turns those into four normals. The
number with index n of stream i is a function of (seed, i, n) alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from robust_npe.tasks.pyloric.float_math import FLAGS, log, sincos_pi

__all__ = ["normals", "philox", "two_normals"]

F = np.float32
U = np.uint32
_MULTIPLY_0, _MULTIPLY_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_0, _KEY_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


@njit(forceinline=True)
def philox(block: Any, stream: Any, seed: Any) -> Any:
    """Philox4x32-10: four words from the counter (block, stream low, stream high, 0) and a key.

    All arguments are uint64. Words stay in 64-bit registers, with rubbish above the lower half:
    the vector unit multiplies lower halves to full products and needs no conversions.
    """
    c0, c1, c2, c3 = block, stream & _LOW, stream >> _HALF, np.uint64(0)
    k0, k1 = seed & _LOW, seed >> _HALF
    for _ in range(10):
        a = (c0 & _LOW) * _MULTIPLY_0
        b = (c2 & _LOW) * _MULTIPLY_1
        c0, c1, c2, c3 = (b >> _HALF) ^ c1 ^ k0, b, (a >> _HALF) ^ c3 ^ k1, a
        k0, k1 = k0 + _KEY_0, k1 + _KEY_1
    return U(c0), U(c1), U(c2), U(c3)


@njit(forceinline=True, fastmath=FLAGS)
def two_normals(a: Any, b: Any) -> Any:
    """Box-Muller: two normals from two words (uint32).

    The radius has 24 bits, so that no number exceeds 5.9; one in 3e8 should.
    """
    uniform = F(np.int32(a >> U(8))) * F(2.0**-24) + F(2.0**-25)
    radius = F(math.sqrt(F(-2.0) * log(uniform)))
    sine, cosine = sincos_pi(F(np.uint32(b).view(np.int32)) * F(2.0**-31))
    return radius * cosine, radius * sine


@njit(cache=True)
def normals(seed: int, stream: int, n_steps: int) -> NDArray[np.float64]:
    """Return the standard normals (3, n_steps) that simulation number `stream` gets.

    Step i of cell c takes number 3 i + c of the stream; step 0 is the start and uses none.
    """
    flat = np.empty(3 * n_steps + 3)
    for block in range((3 * n_steps + 3) // 4):
        a, b, c, d = philox(np.uint64(block), np.uint64(stream), np.uint64(seed))
        flat[4 * block], flat[4 * block + 1] = two_normals(a, b)
        flat[4 * block + 2], flat[4 * block + 3] = two_normals(c, d)
    return flat[: 3 * n_steps].reshape(n_steps, 3).T.copy()
