"""Summary statistics of the pyloric rhythm, after Prinz, Bucher & Marder (2004)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robust_npe.compiling import log_compilation
from robust_npe.tasks.pyloric import constants as c
from robust_npe.tasks.pyloric.bursts import find_bursts, find_spikes, smooth, smoothing_matrix
from robust_npe.tasks.pyloric.circuit import KERNELS, NUM_OPTIONAL, NUM_STATISTICS, analyse
from robust_npe.tasks.pyloric.running import parallel

__all__ = ["OPTIONAL_STATISTICS", "STATISTICS", "Summary", "energies", "spikes", "summarize"]

STATISTICS: Final = (
    "cycle_period",
    *(f"burst_duration {cell}" for cell in c.CELLS),
    *(f"duty_cycle {cell}" for cell in c.CELLS),
    *(f"start_phase {cell}" for cell in ("LP", "PY")),
    *(f"start_to_start {pair}" for pair in ("AB/PD-LP", "LP-PY")),
    *(f"end_to_start {pair}" for pair in ("AB/PD-LP", "LP-PY")),
    *(f"phase_gap {pair}" for pair in ("AB/PD-LP", "LP-PY")),
)
OPTIONAL_STATISTICS: Final = (
    *(f"plateau_duration {cell}" for cell in c.CELLS),
    *(f"num_bursts {cell}" for cell in c.CELLS),
    *(f"num_spikes {cell}" for cell in c.CELLS),
    *(f"voltage_{name} {cell}" for cell in c.CELLS for name in ("mean", "sd", "skew", "kurtosis")),
)
_analyse = log_compilation(analyse, "the pyloric summary statistics", *KERNELS)


@dataclass(frozen=True)
class Summary:
    """Statistics of a batch of runs.

    Attributes:
        statistics: The default ones (B, 15), named by `STATISTICS`; times in ms, NaN where the
            rhythm does not define them.
        optional: Others (B, 21), named by `OPTIONAL_STATISTICS`.
        pyloric_like: Whether the circuit is triphasic with the bursts in the order of the living
            pyloric rhythm in at least 70 % of the triphasic periods (B,).
    """

    statistics: NDArray[np.float64]
    optional: NDArray[np.float64]
    pyloric_like: NDArray[np.bool_]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Whether all 15 statistics are defined (B,)."""
        return np.asarray(np.isfinite(self.statistics).all(axis=1))


def summarize(
    voltage: ArrayLike,
    *,
    dt: float = 0.025,
    burn_in: float = 1000.0,
    num_threads: int | None = None,
) -> Summary:
    """Compute the summary statistics of traces at full rate (simulated with `every=1`).

    Args:
        voltage: Membrane potentials (B, 3, n) in mV.
        dt: Distance of the samples in ms.
        burn_in: Time at the beginning that is left out, ms.
        num_threads: None for one per available core.

    Raises:
        ValueError: If the shape is wrong, `dt` too large or the run too short.
    """
    traces = np.asarray(voltage)
    if traces.ndim != 3 or traces.shape[1] != 3:
        raise ValueError(f"voltage must have shape (B, 3, n), got {traces.shape}")
    matrix = smoothing_matrix(dt)
    start = round(burn_in / dt)
    if traces.shape[2] - start < len(matrix) or start < 0:
        raise ValueError(
            f"traces of {traces.shape[2] * dt:g} ms are too short for a burn-in of {burn_in} ms"
        )
    size = len(traces)
    statistics, optional = np.empty((size, NUM_STATISTICS)), np.empty((size, NUM_OPTIONAL))
    pyloric_like = np.zeros(size, np.bool_)

    def run(i: int) -> None:
        trace = traces[i, :, start:]
        pyloric_like[i] = _analyse(trace, float(dt), matrix, statistics[i], optional[i])

    parallel(run, size, num_threads)
    return Summary(statistics, optional, pyloric_like)


def spikes(
    voltage: ArrayLike, *, dt: float = 0.025
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return times (ms) and heights (mV, smoothed) of the spikes in one trace `(n,)`."""
    smoothed = _smoothed(voltage, dt)
    positions = find_spikes(smoothed)
    return np.asarray(positions * dt), np.asarray(smoothed[positions + 1])


class Energies(NamedTuple):
    """What one cell spends, in uJ/cm^2.

    Attributes:
        total: In all.
        per_burst: In each burst (n,), from 2 ms before its first to 12 ms after its last spike.
        per_spike: The same (n,), divided by the burst's number of spikes.
    """

    total: float
    per_burst: NDArray[np.float64]
    per_spike: NDArray[np.float64]


def energies(voltage: ArrayLike, power: ArrayLike, *, dt: float = 0.025) -> Energies:
    """Return the energy that one cell spends: in all, in its bursts, and for its spikes.

    Args:
        voltage: Membrane potential (n,) in mV.
        power: Dissipated power (n,) in nW, as recorded by `simulate_exact(power=True)`, summed
            over whatever currents are of interest.
        dt: Distance of the samples in ms.
    """
    spent = np.asarray(power, np.float64) * dt / c.AREA / 1000.0
    positions = find_spikes(_smoothed(voltage, dt))
    starts, ends = find_bursts(positions, dt)
    before, after = round(2.0 / dt), round(12.0 / dt)
    pieces = zip(starts - before, ends + after, strict=True)
    per_burst = np.array([spent[max(0, a) : b].sum() for a, b in pieces], dtype=np.float64)
    counts = np.searchsorted(positions, ends, "right") - np.searchsorted(positions, starts)
    return Energies(float(spent.sum()), per_burst, per_burst / counts)


def _smoothed(voltage: ArrayLike, dt: float) -> NDArray[np.float64]:
    trace = np.ascontiguousarray(voltage, dtype=np.float64)
    smoothed = np.empty_like(trace)
    smooth(trace, smoothing_matrix(dt), smoothed)
    return smoothed
