"""The numbers of the float32 kernel, computed in float64 for one time step and temperature.

With e = exp((V + a)/b) of a gate's steady state x_inf = 1/(1 + e), all but two gates have a rate
that is linear in a sigmoid s = 1/(1 + E), where E is an exponential of V or a sum of two:

    tau = c - d S(V):    1/tau = 1/c + s (1/(c - d) - 1/c),   E = c/(c - d) exp(...)
    tau = c + d B(V):    1/tau = (1 - s)/c,                   E = c/d (exp(...) + exp(...))

so that both x_inf and s follow from one division, and the share p = 1 - exp(-dt/tau) by which
the gate moves towards x_inf is a polynomial in s of low degree. Forming p as 1 minus an
exponential would cost three digits for the slow gates in float32.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial
from numpy.typing import NDArray

from robust_npe.tasks.pyloric import constants as c
from robust_npe.tasks.pyloric.float_math import exp_row

__all__ = ["Table", "build_table"]

Row = tuple[np.float32, ...]


class Table(NamedTuple):
    """Rows of float32 numbers.

    Attributes:
        m_na, ..., synapse: Exponentials e of the steady states, see `float_math.exp_of_v`.
        tau_na, ..., rate_h2: Exponentials E of the time constants.
        p_na, ..., p_h_a: Polynomials p(s), lowest coefficient first.
        links: Factors between exponentials of which one is a power of the other.
        single: dt, share by which calcium moves, dt/k of the two kinds of synapse, factor and
            offset of calcium's reversal potential, calcium per current, factor of the rate
            of h of Na.
    """

    m_na: Row
    m_cat: Row
    m_cas: Row
    m_a: Row
    m_kca: Row
    m_kd: Row
    h_na: Row
    h_cat: Row
    h_cas: Row
    h_a: Row
    synapse: Row
    tau_na: Row
    tau_cat: Row
    tau_cas: Row
    tau_a: Row
    tau_kca: Row
    tau_kd: Row
    tau_h_cat: Row
    tau_h_cas: Row
    tau_h_cas2: Row
    tau_h_a: Row
    rate_h: Row
    rate_h2: Row
    p_na: Row
    p_cat: Row
    p_cas: Row
    p_a: Row
    p_kca: Row
    p_kd: Row
    p_h_na: Row
    p_h_cat: Row
    p_h_cas: Row
    p_h_a: Row
    links: Row
    single: Row


_DEGREE, _DEGREE_FAST = 2, 4
_FAST = ("na", "cat")  # gates with short time constants
_TOLERANCE = 1e-4
_TAU_H_NA_MIN = 0.1  # ms: shorter ones belong to V < -97 mV, which does not occur


def _share(at_zero: float, at_one: float, dt: float, degree: int = _DEGREE) -> list[float]:
    """Coefficients of p(s) = 1 - exp(-dt r(s)), r linear from `at_zero` to `at_one` (1/ms)."""

    def share(s: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(-np.expm1(-dt * (at_zero + s * (at_one - at_zero))))

    fit = Chebyshev.interpolate(share, degree, domain=[0.0, 1.0])
    s = np.linspace(0.0, 1.0, 101)
    error = np.abs(fit(s) - share(s)).max() / share(s).max()
    if error > _TOLERANCE:
        raise ValueError(
            f"dt times the rate of a gate reaches {dt * max(at_zero, at_one):.2g}: too much for "
            "the float32 kernel. Use a smaller dt or a lower temperature, or exact=True"
        )
    return list(fit.convert(kind=Polynomial, domain=[-1, 1], window=[-1, 1]).coef)


# steady states: exp((V + a)/b)
_STEADY = {
    "m_na": (25.5, -5.29),
    "m_cat": (27.1, -7.2),
    "m_cas": (33.0, -8.1),
    "m_a": (27.2, -8.7),
    "m_kca": (28.3, -12.6),
    "m_kd": (12.3, -11.8),
    "h_na": (48.9, 5.18),
    "h_cat": (32.1, 5.5),
    "h_cas": (60.0, 6.2),
    "h_a": (56.9, 4.9),
    "synapse": (35.0, 10.0),  # its square is the synapse's exp((V + 35)/5)
}
# tau = c - d S(V; a, b): gate, index of its rate factor, c, d, a, b
_SIGMOID_TAU = (
    ("na", 0, 2.64, 2.52, 120.0, -25.0),
    ("cat", 1, 43.4, 42.6, 68.1, -20.5),
    ("a", 3, 23.2, 20.8, 32.9, -15.2),
    ("kca", 4, 180.6, 150.2, 46.0, -22.7),
    ("kd", 5, 14.4, 12.8, 28.3, -19.2),
    ("h_cat", 8, 210.0, 179.6, 55.0, -16.9),
    ("h_a", 10, 77.2, 58.4, 38.9, -26.5),
)


def build_table(dt: float, kelvin: float, speed: NDArray[np.float64]) -> Table:
    """Return the numbers of the float32 kernel.

    Args:
        dt: Time step in ms.
        kelvin: Temperature in K.
        speed: Rate factors (14,): m (7), h (4), calcium, glutamatergic, cholinergic.

    Raises:
        ValueError: If `dt` times a rate is too large for the polynomials.
    """
    step = dt * speed
    nernst = c.NERNST_PER_KELVIN * kelvin
    rows = {name: exp_row(a, b) for name, (a, b) in _STEADY.items()}
    for gate, k, c0, d, a, b in _SIGMOID_TAU:
        rows[f"tau_{gate}"] = exp_row(a, b, c0 / (c0 - d))
        degree = _DEGREE_FAST if gate in _FAST else _DEGREE
        rows[f"p_{gate}"] = _share(1 / c0, 1 / (c0 - d), step[k], degree)
    # tau = c + d B(V), the bells of CaS
    rows["tau_cas"] = exp_row(70.0, -13.0, 2.8 / 14.0)
    rows["p_cas"] = _share(1 / 2.8, 0.0, step[2])
    rows["tau_h_cas"] = exp_row(55.0, 9.0, 120.0 / 300.0)
    rows["tau_h_cas2"] = exp_row(65.0, -16.0, 120.0 / 300.0)
    rows["p_h_cas"] = _share(1 / 120.0, 0.0, step[9])
    rows["p_h_na"] = _share(0.0, 1 / _TAU_H_NA_MIN, step[7], _DEGREE_FAST)
    # the rate of H is a sum of two exponentials
    rows["rate_h"] = exp_row(14.59 / 0.086, -1 / 0.086, step[6] / 2.0)
    rows["rate_h2"] = exp_row(-1.87 / 0.0701, 1 / 0.0701, step[6] / 2.0)
    rows["links"] = [
        2.8 / 14.0 * math.exp((27.0 - 35.0) / 10.0),  # tau of CaS, from `synapse`
        math.exp((35.0 - 62.9) / 10.0),  # tau of h_Na, from 1/`synapse`
        math.exp((34.9 - 27.1) / 3.6),  # tau of h_Na, from 1/`m_cat`^2
        math.exp((75.0 - 32.1) / 5.5),  # H, from `h_cat`
    ]
    rows["single"] = [
        dt,
        -math.expm1(-step[11] / c.CALCIUM_TAU),
        step[12] / c.K_GLUTAMATE,
        step[13] / c.K_CHOLINE,
        nernst,
        nernst * math.log(c.CALCIUM_OUTSIDE),
        c.CALCIUM_PER_CURRENT * c.CAPACITANCE,
        _TAU_H_NA_MIN / 1.34,
    ]
    return Table(**{name: tuple(np.float32(x) for x in row) for name, row in rows.items()})
