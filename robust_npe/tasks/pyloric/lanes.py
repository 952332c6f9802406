"""The float32 kernel: a block of simulations advances together, one per SIMD lane.

All arrays have the lanes in their last axis, and the loops over lanes contain no branches, so
that the compiler turns each operation into one vector instruction (16 lanes are one 512-bit
register, or two of 256 bits). Array sizes are constants: with sizes known only at run time the
compiler would not dare to vectorise.

For developers: numba's cache of a kernel notices changes of the kernel's own file only. After an
edit of `cell`, `noise` or `float_math`, delete the `__pycache__` beside them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from robust_npe.tasks.pyloric import constants as c
from robust_npe.tasks.pyloric.cell import cell_step, synaptic_input
from robust_npe.tasks.pyloric.float_math import FLAGS
from robust_npe.tasks.pyloric.noise import philox, two_normals

__all__ = ["LANES", "run_lanes"]

LANES = 16

F = np.float32
_STATES = 15  # per cell: V, calcium, 7 m, 4 h, and the gates of its glut. and chol. synapses
_PAIRS = 6 * LANES  # of normals for four steps
_V_START, _CALCIUM_START, _SPIKE_LEVEL = F(c.V_START), F(c.CALCIUM_START), F(c.SPIKE_LEVEL)


@intrinsic
def _widest_vectors(typing_context: Any) -> Any:
    """Compile the calling function on its own, for 512-bit registers if there are any.

    By default LLVM stops at 256 bits on many processors that have 512, and leaves the stack where
    it is: with three chances in four, every vector on it would then cross two cache lines, which
    costs a fifth of the speed.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        attributes = builder.function.attributes
        # llvmlite has a fixed list of attributes; `set.add` avoids its check
        set.add(attributes, '"prefer-vector-width"="512"')
        attributes.add("noinline")
        attributes.alignstack = 64
        return context.get_dummy_value()

    return types.none(), codegen


@njit(error_model="numpy", fastmath=FLAGS)
def _draw(z: Any, words: Any, group: Any, first: Any, seed: Any, sigma: Any) -> None:
    """Write the noise of the steps 4 * group ... 4 * group + 3 to `z`, see `_place`."""
    _widest_vectors()  # type: ignore[call-arg]
    for j in range(3):
        block = np.uint64(3 * group + j)
        for lane in range(LANES):
            a, b, c, d = philox(block, first + np.uint64(lane), seed)
            words[0, 2 * j * LANES + lane], words[1, 2 * j * LANES + lane] = a, b
            words[0, (2 * j + 1) * LANES + lane], words[1, (2 * j + 1) * LANES + lane] = c, d
    for i in range(_PAIRS):
        n0, n1 = two_normals(words[0, i], words[1, i])
        z[0, i], z[1, i] = sigma * n0, sigma * n1


@njit(forceinline=True)
def _place(number: Any) -> Any:
    """Row and first column of the lanes' normal `number` (0 ... 11) in the array of noise."""
    return number % 2, number // 2 * LANES


@njit(forceinline=True, fastmath=FLAGS)
def _synapses(x: Any, g: Any, z: Any, number: Any, total: Any, drive: Any) -> None:
    """Write the synaptic conductance of each cell, and its drive with the noise of this step."""
    (r0, c0), (r1, c1), (r2, c2) = _place(number), _place(number + 1), _place(number + 2)
    for lane in range(LANES):
        lp, py = x[_STATES + 13, lane], x[2 * _STATES + 13, lane]
        low = (g[24, lane], g[25, lane], g[26, lane], g[27, lane])
        high = (g[28, lane], g[29, lane], g[30, lane])
        inputs = synaptic_input(x[13, lane], x[14, lane], lp, py, (*low, *high))
        total[0, lane], total[1, lane], total[2, lane] = inputs[0][0], inputs[1][0], inputs[2][0]
        drive[0, lane] = inputs[0][1] + z[r0, c0 + lane]
        drive[1, lane] = inputs[1][1] + z[r1, c1 + lane]
        drive[2, lane] = inputs[2][1] + z[r2, c2 + lane]


@njit(forceinline=True, fastmath=FLAGS)
def _cells(x: Any, g: Any, total: Any, drive: Any, table: Any) -> None:
    """Advance the three cells by one step."""
    for cell in range(3):
        r, q = _STATES * cell, 8 * cell
        for i in range(LANES):
            gates = (x[r + 2, i], x[r + 3, i], x[r + 4, i], x[r + 5, i], x[r + 6, i])
            gates2 = (x[r + 7, i], x[r + 8, i], x[r + 9, i], x[r + 10, i], x[r + 11, i])
            state = (
                x[r, i],
                x[r + 1, i],
                *gates,
                *gates2,
                x[r + 12, i],
                x[r + 13, i],
                x[r + 14, i],
            )
            low = (g[q, i], g[q + 1, i], g[q + 2, i], g[q + 3, i])
            high = (g[q + 4, i], g[q + 5, i], g[q + 6, i], g[q + 7, i])
            new = cell_step(state, (*low, *high), total[cell, i], drive[cell, i], table)
            x[r, i], x[r + 1, i], x[r + 2, i], x[r + 3, i], x[r + 4, i] = new[:5]
            x[r + 5, i], x[r + 6, i], x[r + 7, i], x[r + 8, i], x[r + 9, i] = new[5:10]
            x[r + 10, i], x[r + 11, i], x[r + 12, i], x[r + 13, i], x[r + 14, i] = new[10:]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FLAGS)
def run_lanes(
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
    """Simulate `LANES` networks; results are written to `voltage` and `spiking`.

    Args:
        conductances: Membrane (24) and synaptic (7) conductances over the capacitance, float32
            (31, LANES), 1/ms.
        first: Number of the first lane's noise stream, uint64; the others follow.
        seed: Key of the noise, uint64.
        sigma: Standard deviation of the noise over the capacitance, float32, mV/ms.
        table: From `build_table`.
        n_steps: Number of time points; the first is the start.
        every: Distance of the stored samples, steps.
        grid: Distance of the samples that are tested for spiking, steps.
        voltage: Output (LANES, 3, n_stored), float32, mV.
        spiking: Output (LANES, 3), int32: number of samples above +20 mV.
    """
    _widest_vectors()  # type: ignore[call-arg]
    x = np.zeros((3 * _STATES, LANES), F)
    g = np.empty((31, LANES), F)
    z, words = np.zeros((2, _PAIRS), F), np.empty((2, _PAIRS), np.uint32)
    total, drive = np.zeros((3, LANES), F), np.zeros((3, LANES), F)
    count = np.zeros((3, LANES), np.int32)
    for i in range(31):
        g[i] = conductances[i]
    for cell in range(3):
        x[_STATES * cell] = _V_START
        x[_STATES * cell + 1] = _CALCIUM_START
    for step in range(n_steps):
        if step % every == 0:
            for cell in range(3):
                for lane in range(LANES):
                    voltage[lane, cell, step // every] = x[_STATES * cell, lane]
        if step % grid == 0:
            for cell in range(3):
                for lane in range(LANES):
                    count[cell, lane] += np.int32(x[_STATES * cell, lane] > _SPIKE_LEVEL)
        following = step + 1
        if following % 4 == 0 or step == 0:
            _draw(z, words, following // 4, first, seed, sigma)
        _synapses(x, g, z, 3 * (following % 4), total, drive)
        _cells(x, g, total, drive, table)
    for lane in range(LANES):
        for cell in range(3):
            spiking[lane, cell] = count[cell, lane]
