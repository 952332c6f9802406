"""A spiking compartment as compiled code: each neuron takes its own steps.

Importing this module imports numba. The first call compiles; the result is kept in a cache.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

from robust_npe.compiling import log_compilation

__all__ = ["solve_voltage"]

Array: TypeAlias = NDArray[np.float64]

# Dormand & Prince (1980), "A family of embedded Runge-Kutta formulae": weights of the slopes so
# far in each stage, of which the last is the new state, and of all slopes in the error
STAGES = np.array(
    (
        (1 / 5, 0, 0, 0, 0, 0),
        (3 / 40, 9 / 40, 0, 0, 0, 0),
        (44 / 45, -56 / 15, 32 / 9, 0, 0, 0),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729, 0, 0),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656, 0),
        (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    )
)
ERROR = np.array((71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40))

SMALLEST, LARGEST = 1e-6, 1 / 200  # steps, as a fraction of the duration
SHRINK, GROW, SAFETY = 0.2, 3.0, 0.9

V_REST, V_THRESHOLD, TAU_MAX = -70.0, -60.0, 600.0

# The rates are x / (exp(x) - 1), 0/0 at three voltages. Moving these by a billionth of a millivolt
# keeps round numbers, such as an initial voltage, off them; the rate there is right to 1e-7.
M_OPEN, M_CLOSE, N_OPEN = (V_THRESHOLD + v + 1e-9 for v in (13.0, 40.0, 15.0))

FLAGS = {"contract", "reassoc", "nsz", "arcp"}  # non-finite numbers keep their meaning


@njit(forceinline=True, error_model="numpy", fastmath=FLAGS)
def _rates(v: float) -> tuple[float, ...]:
    """Return the gates' opening rates and the sums of opening and closing rates in 1/ms.

    With u = v - V_threshold in mV and e(z) = z / (exp(z) - 1), opening and closing rates are:
    m: 1.28 e(-(u - 13) / 4), 1.4 e((u - 40) / 5); n: 0.16 e(-(u - 15) / 5),
    0.5 exp(-(u - 10) / 40); h: 0.128 exp(-(u - 17) / 18), 4 / (1 + exp(-(u - 40) / 5));
    p: p_inf / tau_p, (1 - p_inf) / tau_p, with p_inf = 1 / (1 + exp(-(v + 35) / 10)) and
    tau_p = tau_max / (3.3 exp((v + 35) / 20) + exp(-(v + 35) / 20)).

    All exponentials but one are powers of exp(v / 40), which makes them cheap.
    """
    power = math.exp(v / 40)
    power2 = power * power
    power8 = power2 * power2 * power2 * power2
    power10 = power8 * power2
    m_open = 0.32 * (v - M_OPEN) * power10 / (power10 - math.exp(M_OPEN / 4))
    at_half = math.exp(M_CLOSE / 5)
    m_total = m_open + 0.28 * at_half * (v - M_CLOSE) / (power8 - at_half)
    n_open = 0.032 * (v - N_OPEN) * power8 / (power8 - math.exp(N_OPEN / 5))
    n_total = n_open + 0.5 * math.exp((V_THRESHOLD + 10) / 40) / power
    h_open = 0.128 * math.exp((V_THRESHOLD + 17 - v) / 18)
    h_total = h_open + 4 * power8 / (power8 + math.exp((V_THRESHOLD + 40) / 5))
    w = power2 * math.exp(35 / 20)
    scale = (3.3 * w * w + 1) / TAU_MAX
    return m_open, n_open, h_open, scale * w / (w * w + 1), m_total, n_total, h_total, scale / w


@njit(forceinline=True, error_model="numpy", fastmath=FLAGS)
def _derivative(state: Array, neuron: Array, injected: float, out: Array) -> None:
    """Write the derivative of (V, m, n, h, p) to `out`; for `neuron` see `_solve`."""
    v, m, n, h, p = state
    g_na, g_k, g_m, gain, e_leak, e_na, e_k, g_leak = neuron
    current = g_na * m * m * m * h * (e_na - v) + (g_k * n * n * n * n + g_m * p) * (e_k - v)
    out[0] = gain * (current + g_leak * (e_leak - v) + injected)
    rates = _rates(v)
    for gate in range(4):
        out[1 + gate] = rates[gate] - rates[4 + gate] * state[1 + gate]


@njit(forceinline=True, error_model="numpy", fastmath=FLAGS)
def _step(
    state: Array,
    slopes: Array,
    size: float,
    neuron: Array,
    injected: float,
    tolerance: Array,
    new: Array,
) -> float:
    """Write the state after one step to `new` and the slopes to `slopes[1:]`; return the error.

    The error is relative to the tolerance, and infinite where a state is not finite. The last
    stage is the new state itself, so its slope is the next step's first one.
    """
    for stage in range(6):
        for i in range(5):
            slope = 0.0
            for j in range(stage + 1):
                slope += STAGES[stage, j] * slopes[j, i]
            new[i] = state[i] + size * slope
        _derivative(new, neuron, injected, slopes[stage + 1])
    largest = 0.0
    for i in range(5):
        error = 0.0
        for j in range(7):
            error += ERROR[j] * slopes[j, i]
        error = abs(size * error) / tolerance[i]
        largest = max(largest, np.inf if np.isnan(error) else error)
    return largest


@njit(forceinline=True, error_model="numpy", fastmath=FLAGS)
def _cubic(s: float, start: float, end: float, a: float, b: float) -> float:
    """Return at s in [0, 1] the cubic from `start` to `end` whose slopes there are a and b."""
    change = end - start
    return start + s * (a + s * (3 * change - 2 * a - b + s * (a + b - 2 * change)))


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FLAGS)
def _solve(
    neurons: Array, current: float, stops: Array, times: Array, tolerance: Array, out: Array
) -> None:
    """Solve the membrane equations of each neuron, starting at rest at -70 mV.

    Neurons do not influence each other. Steps end where the current jumps; between steps the
    voltage is a cubic polynomial with the right values and slopes. A neuron whose step would
    have to be smaller than a millionth of the duration is given up: its remaining points are
    left as they are.

    Args:
        neurons: g_Na, g_K, g_M, what turns a current into dV/dt, E_leak, E_Na, E_K, g_leak,
            shape `(B, 8)`.
        current: Injected between the first two stops.
        stops: Onset and offset of the current, and the last of the times.
        times: Ascending from 0, shape `(T,)`, T at least 2.
        tolerance: Largest error of V, m, n, h, p in one step, shape `(5,)`.
        out: Gets the voltages, shape `(B, T)`.
    """
    state, new, slopes = np.empty(5), np.empty(5), np.empty((7, 5))
    smallest, largest = SMALLEST * times[-1], LARGEST * times[-1]
    for neuron, voltage in zip(neurons, out):  # noqa: B905 - numba knows no `strict`
        rates = _rates(V_REST)
        state[0] = voltage[0] = V_REST
        for gate in range(4):
            state[1 + gate] = rates[gate] / rates[4 + gate]
        time, step, phase, point, injected = 0.0, largest / 10, 0, 1, 0.0
        _derivative(state, neuron, injected, slopes[0])
        while point < len(times) and step >= smallest:
            room = stops[phase] - time
            size = min(step, room)
            at_stop = size == room
            error = _step(state, slopes, size, neuron, injected, tolerance, new)
            if error > 1 or not at_stop:  # a step that was cut short says nothing about the next
                factor = SAFETY * max(error, 1e-5) ** -0.2
                step = min(size * min(max(factor, SHRINK), GROW), largest)
            if error > 1:
                continue
            # rounding must not lose the last point
            while point < len(times) and times[point] <= time + size + 1e-9 * largest:
                s = min((times[point] - time) / size, 1.0)
                a, b = size * slopes[0, 0], size * slopes[6, 0]
                voltage[point] = _cubic(s, state[0], new[0], a, b)
                point += 1
            state[:], slopes[0] = new, slopes[6]
            time += size
            if at_stop:  # the current jumps, and with it the slope
                time, phase = stops[phase], phase + 1
                injected = current if phase == 1 else 0.0
                _derivative(state, neuron, injected, slopes[0])


solve_voltage = log_compilation(_solve, "the Hodgkin-Huxley simulator")
