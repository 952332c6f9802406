"""Gate functions of the membrane currents in float64, one line per printed formula.

Source: Prinz, Bucher & Marder (2004), with the time constant of the H current as in the public
simulator of Goncalves et al. (2020). V in mV, time constants in ms at 283 K.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["activation", "activation_tau", "inactivation", "inactivation_tau"]


@njit(cache=True)
def _sigmoid(v: float, a: float, b: float) -> float:
    return 1.0 / (1.0 + math.exp((v + a) / b))


@njit(cache=True)
def _bell(v: float, a: float, b: float, c: float, d: float) -> float:
    return 1.0 / (math.exp((v + a) / b) + math.exp((v + c) / d))


@njit(cache=True)
def activation(v: float, calcium: float, out: NDArray[np.float64]) -> None:
    """Write m_inf of Na, CaT, CaS, A, KCa, Kd, H to `out (7,)`; calcium in uM."""
    out[0] = _sigmoid(v, 25.5, -5.29)
    out[1] = _sigmoid(v, 27.1, -7.2)
    out[2] = _sigmoid(v, 33.0, -8.1)
    out[3] = _sigmoid(v, 27.2, -8.7)
    out[4] = calcium / (calcium + 3.0) * _sigmoid(v, 28.3, -12.6)
    out[5] = _sigmoid(v, 12.3, -11.8)
    out[6] = _sigmoid(v, 75.0, 5.5)


@njit(cache=True)
def activation_tau(v: float, out: NDArray[np.float64]) -> None:
    """Write the time constants of m, in the order of `activation`, to `out (7,)`."""
    out[0] = 2.64 - 2.52 * _sigmoid(v, 120.0, -25.0)
    out[1] = 43.4 - 42.6 * _sigmoid(v, 68.1, -20.5)
    out[2] = 2.8 + 14.0 * _bell(v, 27.0, 10.0, 70.0, -13.0)
    out[3] = 23.2 - 20.8 * _sigmoid(v, 32.9, -15.2)
    out[4] = 180.6 - 150.2 * _sigmoid(v, 46.0, -22.7)
    out[5] = 14.4 - 12.8 * _sigmoid(v, 28.3, -19.2)
    out[6] = 2.0 / (math.exp(-14.59 - 0.086 * v) + math.exp(-1.87 + 0.0701 * v))


@njit(cache=True)
def inactivation(v: float, out: NDArray[np.float64]) -> None:
    """Write h_inf of Na, CaT, CaS, A to `out (4,)`."""
    out[0] = _sigmoid(v, 48.9, 5.18)
    out[1] = _sigmoid(v, 32.1, 5.5)
    out[2] = _sigmoid(v, 60.0, 6.2)
    out[3] = _sigmoid(v, 56.9, 4.9)


@njit(cache=True)
def inactivation_tau(v: float, out: NDArray[np.float64]) -> None:
    """Write the time constants of h, in the order of `inactivation`, to `out (4,)`."""
    out[0] = 1.34 * _sigmoid(v, 62.9, -10.0) * (1.5 + _sigmoid(v, 34.9, 3.6))
    out[1] = 210.0 - 179.6 * _sigmoid(v, 55.0, -16.9)
    out[2] = 120.0 + 300.0 * _bell(v, 55.0, 9.0, 65.0, -16.0)
    out[3] = 77.2 - 58.4 * _sigmoid(v, 38.9, -26.5)
