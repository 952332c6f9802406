"""The pyloric network in float64, one simulation at a time: the yardstick of the fast kernel.

Three cells (AB/PD, LP, PY), each with eight membrane currents and a calcium pool, and seven
graded synapses (Prinz, Bucher & Marder 2004; parameters as in Goncalves et al. 2020). The
membrane potential, calcium and gates follow exponential Euler steps, the synapses forward Euler;
every update reads only the state of the step before.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from robust_npe.tasks.pyloric import constants as c
from robust_npe.tasks.pyloric.rates import (
    activation,
    activation_tau,
    inactivation,
    inactivation_tau,
)

__all__ = ["run_exact"]

Array = NDArray[np.float64]

_PRE = np.array(c.SYNAPSE_PRE)
_POST = np.array(c.SYNAPSE_POST)
_E_SYNAPSE = np.array([c.E_GLUTAMATE if glut else c.E_CHOLINE for glut in c.GLUTAMATERGIC])
_K_SYNAPSE = np.array([c.K_GLUTAMATE if glut else c.K_CHOLINE for glut in c.GLUTAMATERGIC])
_REVERSALS = np.array(c.REVERSALS)
_POWERS = np.array([3, 3, 3, 3, 4, 4, 1, 0])


@njit(cache=True)
def _membrane(m: Array, h: Array, g: Array, conductance: Array) -> None:
    """Write g m^p h of the eight currents of one cell, in mS, to `conductance (8,)`."""
    for k in range(8):
        conductance[k] = g[k]
        for _ in range(_POWERS[k]):
            conductance[k] *= m[k]
        if k < 4:
            conductance[k] *= h[k]


@njit(cache=True)
def _relax(x: float, target: float, dt: float, tau: float) -> float:
    """Move `x` towards `target` for a time `dt`, exactly for a constant target."""
    return target + (x - target) * math.exp(-dt / tau)


@njit(cache=True)
def _currents(
    cell: int, u: float, e_calcium: float, conductance: Array, g_synapse: Array, s: Array
) -> tuple[float, float, float, float]:
    """Total conductance, its drive, and the power of membrane and incoming synapses at `u`."""
    total, drive, watt = 0.0, 0.0, 0.0
    for k in range(8):
        reversal = e_calcium if k == 1 or k == 2 else _REVERSALS[k]
        total += conductance[k]
        drive += conductance[k] * reversal
        watt += conductance[k] * (u - reversal) ** 2
    watt_synapse = 0.0
    for k in range(7):
        if _POST[k] == cell:
            total += g_synapse[k] * s[k]
            drive += g_synapse[k] * s[k] * _E_SYNAPSE[k]
            watt_synapse += g_synapse[k] * s[k] * (u - _E_SYNAPSE[k]) ** 2
    return total, drive, watt, watt_synapse


@njit(cache=True)
def _gates_step(
    u: float, calcium: float, m: Array, h: Array, dt: float, speed: Array, work: Array
) -> None:
    """Move the gates of a cell towards their targets at voltage `u`; `work` is `(4, 7)`."""
    target_m, tau_m, target_h, tau_h = work[0], work[1], work[2, :4], work[3, :4]
    activation(u, calcium, target_m)
    activation_tau(u, tau_m)
    inactivation(u, target_h)
    inactivation_tau(u, tau_h)
    for k in range(7):
        m[k] = _relax(m[k], target_m[k], dt, tau_m[k] / speed[k])
    for k in range(4):
        h[k] = _relax(h[k], target_h[k], dt, tau_h[k] / speed[7 + k])


@njit(cache=True)
def _synapse_step(s: Array, v: Array, dt: float, speed: Array) -> None:
    """Forward Euler of the seven synaptic gates; `speed` holds (glut, chol) rate factors."""
    for k in range(7):
        target = 1.0 / (1.0 + math.exp((-35.0 - v[_PRE[k]]) / 5.0))
        factor = speed[0] if _K_SYNAPSE[k] == c.K_GLUTAMATE else speed[1]
        tau = _K_SYNAPSE[k] * (1.0 - target) / factor
        s[k] = target if dt > tau else s[k] + (target - s[k]) * dt / tau


@njit(cache=True, nogil=True)
def run_exact(
    g: Array,
    g_synapse: Array,
    noise: Array,
    dt: float,
    every: int,
    kelvin: float,
    speed: Array,
    voltage: Array,
    power: Array,
) -> None:
    """Simulate one network; results are written to `voltage` and `power`.

    Args:
        g: Maximal membrane conductances (3, 8), mS.
        g_synapse: Maximal synaptic conductances (7,), mS.
        noise: Injected current (3, n_steps), uA; column 0 is never used.
        dt: Time step, ms.
        every: Distance of the stored samples, steps.
        kelvin: Temperature, for the reversal potential of calcium.
        speed: Rate factors (14,): m (7), h (4), calcium, glutamatergic, cholinergic.
        voltage: Output (3, n_stored), mV.
        power: Output (3, 2, n_stored), sum of g (V - E)^2 in nW over the membrane currents and
            over the incoming synapses; left alone if its last axis is empty.
    """
    v, v_old = np.full(3, c.V_START), np.empty(3)
    calcium = np.full(3, c.CALCIUM_START)
    m, h, s = np.zeros((3, 7)), np.zeros((3, 4)), np.zeros(7)
    gates, conductance = np.empty((4, 7)), np.empty(8)
    keep_power = power.shape[2] > 0
    n_steps = noise.shape[1]
    for step in range(1, n_steps + 1):
        stored = (step - 1) // every if (step - 1) % every == 0 else -1
        v_old[:] = v
        if stored >= 0:
            voltage[:, stored] = v
        if step == n_steps and not (keep_power and stored >= 0):
            break
        for cell in range(3):
            u = v_old[cell]
            e_calcium = c.NERNST_PER_KELVIN * kelvin * math.log(c.CALCIUM_OUTSIDE / calcium[cell])
            _membrane(m[cell], h[cell], g[cell], conductance)
            i_calcium = (conductance[1] + conductance[2]) * (u - e_calcium)
            total, drive, watt, watt_synapse = _currents(
                cell, u, e_calcium, conductance, g_synapse, s
            )
            if keep_power and stored >= 0:
                power[cell, 0, stored] = watt
                power[cell, 1, stored] = watt_synapse
            if step == n_steps:
                continue
            drive += noise[cell, step]
            if total > 0.0:
                v[cell] = _relax(u, drive / total, dt, c.CAPACITANCE / total)
            else:
                v[cell] = u + dt * drive / c.CAPACITANCE
            _gates_step(u, calcium[cell], m[cell], h[cell], dt, speed, gates)
            target = c.CALCIUM_REST - c.CALCIUM_PER_CURRENT * i_calcium
            calcium[cell] = _relax(calcium[cell], target, dt, c.CALCIUM_TAU / speed[11])
        _synapse_step(s, v_old, dt, speed[12:])
