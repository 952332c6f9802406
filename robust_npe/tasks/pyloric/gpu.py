"""The float32 simulator on a GPU: one simulation per thread, from the same source as the lanes.

Cells, synapses and noise are the functions that the CPU kernel uses; only the loop around them is
written again. Tested on numba's simulator of the device (NUMBA_ENABLE_CUDASIM=1). On an H200, 512
runs of 100 ms had the spikes of `simulate` and its voltages to 0.07 mV; in longer ones rounding
grows. The task itself simulates on CPU cores: what is stored is the same on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda, float32
from numpy.typing import ArrayLike

from robust_npe.tasks.pyloric import constants as c
from robust_npe.tasks.pyloric.cell import cell_step, synaptic_input
from robust_npe.tasks.pyloric.noise import philox, two_normals
from robust_npe.tasks.pyloric.prepare import prepare
from robust_npe.tasks.pyloric.simulate import Simulation

__all__ = ["run_threads", "simulate_gpu"]

F = np.float32
_THREADS = 64  # per block: few, as each keeps some 80 numbers in registers
_ZERO, _SPIKE_LEVEL = F(0.0), F(c.SPIKE_LEVEL)
_START = (F(c.V_START), F(c.CALCIUM_START), *(13 * (F(0.0),)))


def _run_threads(
    conductances: Any,
    first: Any,
    seed: Any,
    sigma: Any,
    table: Any,
    n_steps: Any,
    every: Any,
    grid: Any,
    voltage: Any,
    spiking: Any,
) -> None:
    """Simulate one network per thread; arguments as those of `run_lanes`.

    Here `conductances` is (31, B), `voltage` (3, n_out, B) and `spiking` (3, B): neighbouring
    threads touch neighbouring memory.
    """
    i: int = cuda.grid(1)  # type: ignore[call-arg]
    if i >= conductances.shape[1]:
        return
    g = conductances[:, i]
    synapses = (g[24], g[25], g[26], g[27], g[28], g[29], g[30])
    g_pd = (g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7])
    g_lp = (g[8], g[9], g[10], g[11], g[12], g[13], g[14], g[15])
    g_py = (g[16], g[17], g[18], g[19], g[20], g[21], g[22], g[23])
    pd, lp, py = _START, _START, _START
    z = cuda.local.array(12, float32)
    for cell in range(3):
        spiking[cell, i] = 0
    for step in range(n_steps):
        if step % every == 0:
            voltage[0, step // every, i] = pd[0]
            voltage[1, step // every, i] = lp[0]
            voltage[2, step // every, i] = py[0]
        if step % grid == 0:
            spiking[0, i] += pd[0] > _SPIKE_LEVEL
            spiking[1, i] += lp[0] > _SPIKE_LEVEL
            spiking[2, i] += py[0] > _SPIKE_LEVEL
        following = step + 1
        if following % 4 == 0 or step == 0:
            for j in range(3):
                block = np.uint64(following // 4 * 3 + j)
                w0, w1, w2, w3 = philox(block, first + np.uint64(i), seed)
                z[4 * j], z[4 * j + 1] = two_normals(w0, w1)
                z[4 * j + 2], z[4 * j + 3] = two_normals(w2, w3)
        n = 3 * (following % 4)
        to_pd, to_lp, to_py = synaptic_input(pd[13], pd[14], lp[13], py[13], synapses)
        pd = cell_step(pd, g_pd, to_pd[0], to_pd[1] + sigma * z[n], table)
        lp = cell_step(lp, g_lp, to_lp[0], to_lp[1] + sigma * z[n + 1], table)
        py = cell_step(py, g_py, to_py[0], to_py[1] + sigma * z[n + 2], table)


run_threads = cuda.jit(_run_threads)


def simulate_gpu(theta: ArrayLike, seed: int, **settings: Any) -> Simulation:
    """Simulate on the current CUDA device; arguments and result as those of `simulate`.

    The noise is that of `simulate`, so runs agree until rounding grows into different spikes.
    """
    run = prepare(theta, seed, **settings)
    size = len(run.bad)
    voltage = cuda.device_array((3, run.n_out, size), np.float32)
    spiking = cuda.device_array((3, size), np.int32)
    conductances = cuda.to_device(np.ascontiguousarray(run.conductances.T))
    blocks = -(-size // _THREADS)
    run_threads[blocks, _THREADS](
        conductances,
        np.uint64(run.first),
        np.uint64(run.seed),
        *run.kernel_settings,
        voltage,
        spiking,
    )
    traces = np.ascontiguousarray(voltage.copy_to_host().transpose(2, 0, 1))
    counts = np.ascontiguousarray(spiking.copy_to_host().T)
    traces[run.bad], counts[run.bad] = np.nan, 0
    return Simulation(traces, counts)
