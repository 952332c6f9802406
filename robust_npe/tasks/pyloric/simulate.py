"""Simulate the pyloric network: many noisy runs in float32, or exact ones in float64.

The model is that of Prinz, Bucher & Marder (2004), with the 31 parameters of Goncalves et al.
(2020); the settings by default are those of Gloeckler et al. (2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robust_npe.compiling import log_compilation
from robust_npe.tasks.pyloric import constants as c
from robust_npe.tasks.pyloric.exact import run_exact
from robust_npe.tasks.pyloric.lanes import LANES, run_lanes
from robust_npe.tasks.pyloric.prepare import Run, conductances_of, num_steps, prepare
from robust_npe.tasks.pyloric.running import parallel
from robust_npe.tasks.pyloric.temperature import Q10

__all__ = ["Exact", "Simulation", "simulate", "simulate_exact"]

_run_lanes = log_compilation(run_lanes, "the float32 pyloric simulator")
_run_exact = log_compilation(run_exact, "the float64 pyloric simulator")


@dataclass(frozen=True)
class Simulation:
    """A batch of simulations.

    Attributes:
        voltage: Membrane potentials (B, 3, n_out) in mV, float32, cells in the order of `CELLS`;
            the first sample is the start value. NaN where the parameters describe no network.
        spiking: Number of samples above +20 mV (B, 3), counted every 0.25 ms on the fly,
            whatever part of the trace was kept.
    """

    voltage: NDArray[np.float32]
    spiking: NDArray[np.int32]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Filter of Gloeckler et al. (2023), (B,): every cell has more than 5 such samples."""
        return np.asarray((self.spiking > c.SPIKE_SAMPLES).all(axis=1))


@dataclass(frozen=True)
class Exact:
    """A batch of exact simulations.

    Attributes:
        voltage: Membrane potentials (B, 3, n_out) in mV, float64.
        power: Dissipated power (B, 3, 2, n_out), sum of g (V - E)^2 in nW, of the membrane
            currents and of the incoming synapses. The last axis is empty unless asked for.
    """

    voltage: NDArray[np.float64]
    power: NDArray[np.float64]


def simulate(
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
    num_threads: int | None = None,
) -> Simulation:
    """Simulate networks in float32, 16 per core at a time.

    The noise of simulation i depends on (`seed`, `first_index` + i) alone: neither the number of
    threads nor the split of a batch changes the result.

    Args:
        theta: Parameters (B, 31), see `PARAMETER_NAMES`. Rows that are not finite or hold a
            negative membrane conductance give NaN.
        seed: Key of the noise, from 0 to 2^64 - 1.
        first_index: Number of the first simulation.
        t_max: Simulated time in ms.
        dt: Time step in ms.
        every: Every how many steps a sample is kept.
        noise_std: Standard deviation of the current injected per step, uA; not scaled with dt.
        temperature: Temperature in K.
        q10: Temperature factors; None for the defaults.
        num_threads: None for one per available core.

    Raises:
        ValueError: If an argument is out of range, or if `dt` or `temperature` is so high that
            float32 polynomials do not suffice.
    """
    run = prepare(
        theta,
        seed,
        first_index=first_index,
        t_max=t_max,
        dt=dt,
        every=every,
        noise_std=noise_std,
        temperature=temperature,
        q10=q10,
    )
    return _simulate_blocks(run, seed, num_threads)


def _simulate_blocks(run: Run, seed: int, num_threads: int | None) -> Simulation:
    """Simulate in blocks of as many networks as there are lanes, on several threads."""
    size = len(run.bad)
    blocks = -(-size // LANES)
    lanes = np.zeros((blocks * LANES, 31), np.float32)  # padded to whole blocks
    lanes[:size] = run.conductances
    voltage = np.empty((blocks * LANES, 3, run.n_out), np.float32)
    spiking = np.empty((blocks * LANES, 3), np.int32)

    def run_block(i: int) -> None:
        part = slice(i * LANES, (i + 1) * LANES)
        first = np.uint64((run.first + i * LANES) % 2**64)
        block = np.ascontiguousarray(lanes[part].T)
        out = (voltage[part], spiking[part])
        _run_lanes(block, first, np.uint64(seed), *run.kernel_settings, *out)

    parallel(run_block, blocks, num_threads)
    voltage, spiking = voltage[:size], spiking[:size]
    voltage[run.bad], spiking[run.bad] = np.nan, 0
    return Simulation(voltage, spiking)


def simulate_exact(
    theta: ArrayLike,
    noise: ArrayLike | None = None,
    *,
    t_max: float = 2000.0,
    dt: float = 0.025,
    every: int = 100,
    temperature: float = 283.0,
    q10: Q10 | None = None,
    power: bool = False,
    num_threads: int | None = None,
) -> Exact:
    """Simulate networks in float64, one at a time, with the noise given.

    `noise = noise_std * normals(seed, i, n_steps)` is the noise of simulation i of `simulate`.

    Args:
        theta: Parameters (B, 31).
        noise: Injected current (B, 3, n_steps) in uA, where n_steps = t_max / dt; None for none.
            The first column is never used.
        t_max: Simulated time in ms.
        dt: Time step in ms.
        every: Every how many steps a sample is kept.
        temperature: Temperature in K.
        q10: Temperature factors; None for the defaults.
        power: Whether to record the power too.
        num_threads: None for one per available core.

    Raises:
        ValueError: If an argument is out of range.
    """
    g, g_synapse, bad = conductances_of(theta, temperature, q10)
    size, n_steps = len(g), num_steps(t_max, dt, every)
    silence = np.zeros((3, n_steps))
    current = None if noise is None else np.asarray(noise, np.float64)
    if current is not None and current.shape != (size, 3, n_steps):
        raise ValueError(
            f"noise must have shape {(size, 3, n_steps)} for {size} simulations of {t_max} ms, "
            f"got {current.shape}"
        )
    n_out = -(-n_steps // every)
    voltage = np.empty((size, 3, n_out))
    watts = np.zeros((size, 3, 2, n_out if power else 0))
    speed = (q10 or Q10()).rates(temperature)

    def run(i: int) -> None:
        own = silence if current is None else np.ascontiguousarray(current[i])
        settings = (dt, every, float(temperature), speed)
        _run_exact(g[i], g_synapse[i], own, *settings, voltage[i], watts[i])

    parallel(run, size, num_threads)
    voltage[bad], watts[bad] = np.nan, np.nan
    return Exact(voltage, watts)
