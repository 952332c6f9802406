"""Spikes, bursts and plateaus of one membrane potential, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["find_bursts", "find_spikes", "mean_plateau", "smooth", "smoothing_matrix"]

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_SPIKE_THRESHOLD = -10.0  # mV
_BURST_GAP = 150.0  # ms: a longer silence ends a burst
_BURST_MIN = 40.0  # ms: what is shorter is no burst
_PLATEAU_LEVEL = -30.0  # mV
_PLATEAU_STRIDE = 10  # samples
_PLATEAU_MIN, _PLATEAU_FLOOR = (
    200.0,
    100.0,
)  # samples: mean plateaus below the first become the second


def smoothing_matrix(dt: float) -> Array:
    """Cubic Savitzky-Golay smoothing over 0.5 ms as a matrix (w, w).

    Row i gives the least-squares cubic through w samples at the i-th of them: the middle row
    smooths the interior of a trace, the others its ends.

    Raises:
        ValueError: If `dt` (ms) leaves fewer than five samples for the cubic.
    """
    width = int(0.5 / dt) if dt > 0 else 0
    width += 1 - width % 2
    if width < 5:
        raise ValueError(f"summary statistics need traces with dt <= 0.125 ms, got {dt}")
    position = np.linspace(-1.0, 1.0, width)
    powers = np.vander(position, 4)
    return np.asarray(powers @ np.linalg.pinv(powers))


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def smooth(v: Array, matrix: Array, out: Array) -> None:
    """Write the smoothed trace `v (n,)` to `out (n,)`."""
    width, n = matrix.shape[0], v.shape[0]
    half = width // 2
    middle = matrix[half]
    out[:] = 0.0
    for start in range(half, n - half, 2048):  # pieces that stay in the fastest cache
        stop = min(start + 2048, n - half)
        piece = out[start:stop]
        for j in range(width):
            weight, shifted = middle[j], v[start + j - half : stop + j - half]
            for i in range(stop - start):
                piece[i] += weight * shifted[i]
    for i in range(half):
        for j in range(width):
            out[i] += matrix[i, j] * v[j]
            out[n - 1 - i] += matrix[width - 1 - i, j] * v[n - width + j]


@njit(cache=True, nogil=True)
def find_spikes(s: Array) -> Indices:
    """Return the positions k of spikes: s[k + 1] is above -10 mV and a local maximum.

    So positions are one sample early, as in the reference.
    """
    n, count = s.shape[0], 0
    for pass_ in range(2):
        if pass_ == 1:
            spikes = np.empty(count, np.int64)
            count = 0
        for k in range(n - 2):
            top = s[k + 1]
            if top > _SPIKE_THRESHOLD and top - s[k] >= 0.0 and s[k + 2] - top <= 0.0:
                if pass_ == 1:
                    spikes[count] = k
                count += 1
    return spikes


@njit(cache=True, nogil=True)
def find_bursts(spikes: Indices, dt: float) -> Any:
    """Return positions of the first and the last spikes of all bursts longer than 40 ms."""
    firsts, lasts = np.empty(spikes.shape[0], np.int64), np.empty(spikes.shape[0], np.int64)
    count, first = 0, 0
    for i in range(spikes.shape[0]):
        is_last = i == spikes.shape[0] - 1
        if is_last or spikes[i + 1] * dt - spikes[i] * dt >= _BURST_GAP:
            if spikes[i] * dt - spikes[first] * dt > _BURST_MIN:
                firsts[count], lasts[count] = spikes[first], spikes[i]
                count += 1
            first = i + 1
    return firsts[:count], lasts[:count]


@njit(cache=True, nogil=True)
def mean_plateau(s: Array, spikes: Indices, firsts: Indices, dt: float) -> float:
    """Mean over bursts of the longest time above -30 mV, in ms; NaN without bursts.

    Looks at every tenth sample, from a burst's start to the start of the next one (for the last
    burst: to the last spike), and ignores a plateau that has not ended by then.
    """
    if firsts.shape[0] == 0:
        return np.nan
    total = 0.0
    for i in range(firsts.shape[0]):
        end = firsts[i + 1] if i + 1 < firsts.shape[0] else spikes[-1]
        longest, run = 0, 0
        for k in range(firsts[i], end, _PLATEAU_STRIDE):
            if s[k] > _PLATEAU_LEVEL:
                run += 1
            else:
                longest, run = max(longest, run), 0
        total += longest * _PLATEAU_STRIDE
    mean = total / firsts.shape[0]
    return dt * (mean if mean >= _PLATEAU_MIN else _PLATEAU_FLOOR)
