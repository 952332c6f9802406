"""Check arguments and turn parameters into what the kernels take."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robust_npe.tasks.pyloric import constants as c
from robust_npe.tasks.pyloric.table import Table, build_table
from robust_npe.tasks.pyloric.temperature import Q10

__all__ = ["Run", "conductances_of", "num_steps", "prepare"]


@dataclass(frozen=True)
class Run:
    """What the float32 kernels need.

    Attributes:
        conductances: Membrane (24) and synaptic (7) conductances over the capacitance, float32
            (B, 31), 1/ms.
        bad: Rows that describe no network (B,); their conductances are zero.
        first: Number of the first noise stream.
        seed: Key of the noise.
        kernel_settings: Noise over the capacitance (mV/ms), table, number of time points,
            distance of stored samples and of those tested for spiking.
        n_out: Number of stored samples.
    """

    conductances: NDArray[np.float32]
    bad: NDArray[np.bool_]
    first: int
    seed: int
    kernel_settings: tuple[np.float32, Table, int, int, int]
    n_out: int


def prepare(
    theta: ArrayLike,
    seed: int,
    *,
    first_index: int = 0,
    t_max: float = 2000.0,
    dt: float = 0.025,
    every: int = 100,
    noise_std: float = 0.001,
    temperature: float = 283.0,
    q10: Q10 | None = None,
) -> Run:
    """Check the arguments of `simulate` and prepare its kernel's.

    Raises:
        ValueError: If one is out of range.
    """
    g, g_synapse, bad = conductances_of(theta, temperature, q10)
    n_steps = num_steps(t_max, dt, every)
    if not (noise_std >= 0 and math.isfinite(noise_std)):
        raise ValueError(f"noise_std must be a number >= 0, got {noise_std}")
    for name, value in (("seed", seed), ("first_index", first_index)):
        if not 0 <= value < 2**64:
            raise ValueError(f"{name} must lie between 0 and 2^64 - 1, got {value}")
    conductances = np.concatenate([g.reshape(len(g), 24), g_synapse], axis=1) / c.CAPACITANCE
    table = build_table(dt, temperature, (q10 or Q10()).rates(temperature))
    sigma = np.float32(noise_std / c.CAPACITANCE)
    grid = max(1, round(c.SPIKE_GRID / dt))
    settings = (sigma, table, n_steps, every, grid)
    n_out = -(-n_steps // every)
    return Run(conductances.astype(np.float32), bad, first_index, seed, settings, n_out)


def conductances_of(
    theta: ArrayLike, temperature: float, q10: Q10 | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return membrane (B, 3, 8) and synaptic (B, 7) conductances in mS, and impossible rows."""
    theta = np.array(theta, dtype=np.float64)
    if theta.ndim != 2 or theta.shape[1] != c.NUM_PARAMETERS:
        raise ValueError(f"theta must have shape (B, {c.NUM_PARAMETERS}), got {theta.shape}")
    largest = np.array(24 * [1e6] + 7 * [10.0])  # far above anything a network can have
    bad = ~(np.isfinite(theta) & (theta <= largest)).all(axis=1) | (theta[:, :24] < 0).any(axis=1)
    theta[bad] = 0.0
    factors = q10 or Q10()
    g = theta[:, :24].reshape(-1, 3, 8) * c.AREA * factors.membrane(temperature)
    synapse = factors.synaptic(temperature)[[0 if glut else 1 for glut in c.GLUTAMATERGIC]]
    return g, np.exp(theta[:, 24:]) * synapse, bad


def num_steps(t_max: float, dt: float, every: int) -> int:
    """Number of time points of a run of `t_max` ms, the start included."""
    if not (dt > 0 and math.isfinite(dt)):
        raise ValueError(f"dt must be positive, got {dt}")
    if not (t_max >= dt and math.isfinite(t_max)):
        raise ValueError(f"t_max must be at least one time step ({dt} ms), got {t_max}")
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    return round(t_max / dt)
