"""Statistics of the three cells' rhythm."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from robust_npe.tasks.pyloric.bursts import find_bursts, find_spikes, mean_plateau, smooth

__all__ = ["KERNELS", "NUM_OPTIONAL", "NUM_STATISTICS", "analyse"]

Array = NDArray[np.float64]

NUM_STATISTICS, NUM_OPTIONAL = 15, 21
_TRIPHASIC_SHARE = 0.9  # of the periods
_PYLORIC_SHARE = 0.7  # of the triphasic periods


@njit(cache=True, nogil=True)
def _only_in(starts: NDArray[np.int64], low: int, high: int) -> int:
    """Number of the only burst that starts in [low, high), -1 if there is none or several."""
    i = np.searchsorted(starts, low)
    j = np.searchsorted(starts, high)
    return int(i) if j == i + 1 else -1


@njit(cache=True, nogil=True)
def _circuit(pd: Any, lp: Any, py: Any, dt: float, out: Array) -> bool:
    """Write period, phases and delays to `out (15,)`; return whether the order is pyloric.

    `pd`, `lp`, `py` hold the first and the last spikes of bursts.
    """
    periods = pd[0].shape[0] - 1
    if periods < 1:
        return False
    cycle = (pd[0][-1] - pd[0][0]) * dt / periods
    out[0] = cycle
    out[4:7] = out[1:4] / cycle
    triphasic, ordered = 0, 0
    to_lp, to_py, lp_to_py, end_to_lp, end_to_py = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(periods):
        j = _only_in(lp[0], pd[0][i], pd[0][i + 1])
        k = _only_in(py[0], pd[0][i], pd[0][i + 1])
        if j < 0 or k < 0:
            continue
        triphasic += 1
        to_lp += dt * (lp[0][j] - pd[0][i])
        to_py += dt * (py[0][k] - pd[0][i])
        lp_to_py += dt * (py[0][k] - lp[0][j])
        end_to_lp += dt * (lp[0][j] - pd[1][i])
        end_to_py += dt * (py[0][k] - lp[1][j])
        starts, ends = lp[0][j] <= py[0][k], lp[1][j] <= py[1][k]
        ordered += starts and ends and pd[1][i] <= lp[0][j]
    if triphasic < _TRIPHASIC_SHARE * periods:
        return False
    delays = np.array([to_lp / cycle, to_py / cycle, to_lp, lp_to_py, end_to_lp, end_to_py])
    out[7:13] = delays / triphasic
    out[13:15] = out[11:13] / cycle
    return bool(ordered >= _PYLORIC_SHARE * triphasic)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _moments(v: Array, out: Array) -> None:
    """Write mean, standard deviation, skewness and excess kurtosis of `v` to `out (4,)`."""
    mean = v.mean()
    m2, m3, m4 = 0.0, 0.0, 0.0
    for x in v:
        d = x - mean
        m2 += d * d
        m3 += d * d * d
        m4 += d * d * d * d
    m2, m3, m4 = m2 / v.shape[0], m3 / v.shape[0], m4 / v.shape[0]
    out[0], out[1] = mean, np.sqrt(m2)
    out[2], out[3] = m3 / m2**1.5, m4 / (m2 * m2) - 3.0


def analyse(voltage: NDArray[Any], dt: float, matrix: Array, out: Array, optional: Array) -> bool:
    """Compute all statistics of one run.

    Args:
        voltage: Membrane potentials (3, n) in mV.
        dt: Distance of samples, ms.
        matrix: From `smoothing_matrix`.
        out: Output (15,).
        optional: Output (21,): plateaus (3), numbers of bursts (3) and spikes (3), then mean,
            standard deviation, skewness and excess kurtosis of each cell.

    Returns:
        Whether the rhythm is pyloric-like.
    """
    out[:] = np.nan
    trace, smoothed = np.empty(voltage.shape[1]), np.empty(voltage.shape[1])
    bursts = []
    # Python calls the kernels one by one: inlined into one, they lost their vector code.
    for cell in range(3):
        trace[:] = voltage[cell]
        smooth(trace, matrix, smoothed)
        spikes = find_spikes(smoothed)
        firsts, lasts = find_bursts(spikes, dt)
        bursts.append((firsts, lasts))
        if len(firsts) > 0:
            out[1 + cell] = (lasts - firsts).mean() * dt
        optional[cell] = mean_plateau(smoothed, spikes, firsts, dt)
        optional[3 + cell], optional[6 + cell] = len(firsts), len(spikes)
        _moments(trace, optional[9 + 4 * cell : 13 + 4 * cell])
    pd, lp, py = bursts
    return bool(_circuit(pd, lp, py, dt, out))


KERNELS = (smooth, find_spikes, find_bursts, mean_plateau, _moments, _circuit)
