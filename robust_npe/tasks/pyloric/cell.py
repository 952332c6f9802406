"""One step of one cell in float32, arranged for speed.

The formulas are those of `rates`, rewritten as told in `table`: one division per gate, every
exponential that is a power of another one computed once, all numbers from the table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from robust_npe.tasks.pyloric import constants as c
from robust_npe.tasks.pyloric.float_math import FLAGS, exp_of_v, larger, log, one_minus_exp, smaller

__all__ = ["cell_step", "synaptic_input"]

F = np.float32
_E_GLUT, _E_CHOL = F(c.E_GLUTAMATE), F(c.E_CHOLINE)
_ONE = F(1.0)
_V_LOW, _V_HIGH = F(-150.0), F(100.0)  # no exponential overflows; V itself is not limited
_E_NA, _E_K, _E_H, _E_LEAK = F(c.E_NA), F(c.E_K), F(c.E_H), F(c.E_LEAK)


@njit(forceinline=True, fastmath=FLAGS)
def _relax(x: Any, inf: Any, s: Any, row: Any) -> Any:
    """Move a gate towards `inf` by the share p(s), a parabola."""
    p = row[1] + s * row[2]
    p = row[0] + s * p
    return x + (inf - x) * p


@njit(forceinline=True, fastmath=FLAGS)
def _relax_fast(x: Any, inf: Any, s: Any, row: Any) -> Any:
    """The same with a polynomial of degree 4, for short time constants."""
    p = row[3] + s * row[4]
    p = row[2] + s * p
    p = row[1] + s * p
    p = row[0] + s * p
    return x + (inf - x) * p


@njit(forceinline=True, fastmath=FLAGS)
def _gate(x: Any, e: Any, tau_e: Any, row: Any) -> Any:
    """Step a gate with x_inf = 1/(1 + e) and s = 1/(1 + tau_e)."""
    a, b = _ONE + e, _ONE + tau_e
    inverse = _ONE / (a * b)
    return _relax(x, b * inverse, a * inverse, row)


@njit(forceinline=True, fastmath=FLAGS)
def _fast_gate(x: Any, e: Any, tau_e: Any, row: Any) -> Any:
    """The same for short time constants."""
    a, b = _ONE + e, _ONE + tau_e
    inverse = _ONE / (a * b)
    return _relax_fast(x, b * inverse, a * inverse, row)


@njit(forceinline=True, fastmath=FLAGS)
def _gate_h_na(v: Any, h: Any, e_cat: Any, synapse: Any, k: Any) -> Any:
    """Step h of the sodium current, whose time constant is a product of two functions of V."""
    square, link = e_cat * e_cat, k.links[2]
    a = _ONE + exp_of_v(v, k.h_na)
    b = synapse * (F(2.5) * square + F(1.5) * link)
    inverse = _ONE / (a * b)
    rate = (synapse + k.links[1]) * (square + link) * (a * inverse)
    share = smaller(k.single[7] * rate, _ONE)  # of the largest step in the table
    return _relax_fast(h, b * inverse, share, k.p_h_na)


@njit(forceinline=True, fastmath=FLAGS)
def _gate_kca(v: Any, m: Any, calcium: Any, k: Any) -> Any:
    a = (_ONE + exp_of_v(v, k.m_kca)) * (calcium + F(3.0))
    b = _ONE + exp_of_v(v, k.tau_kca)
    inverse = _ONE / (a * b)
    return _relax(m, calcium * (b * inverse), a * inverse, k.p_kca)


@njit(forceinline=True, fastmath=FLAGS)
def _gate_h(v: Any, m: Any, e_h_cat: Any, k: Any) -> Any:
    x = exp_of_v(v, k.rate_h) + exp_of_v(v, k.rate_h2)  # dt/tau
    p = x - F(0.5) * (x * x) * (_ONE - F(1.0 / 3.0) * x)
    return m + (_ONE / (_ONE + k.links[3] * e_h_cat) - m) * p


@njit(forceinline=True, fastmath=FLAGS)
def _membrane(state: Any, g: Any, g_synapse: Any, drive: Any, k: Any) -> Any:
    """New membrane potential and calcium."""
    v, calcium, m_na, m_cat, m_cas, m_a, m_kca, m_kd, m_h, h_na, h_cat, h_cas, h_a, _, _ = state
    e_ca = k.single[5] - k.single[4] * log(calcium)
    g_na = g[0] * (m_na * m_na) * (m_na * h_na)
    g_ca = g[1] * (m_cat * m_cat) * (m_cat * h_cat) + g[2] * (m_cas * m_cas) * (m_cas * h_cas)
    m_kca, m_kd = m_kca * m_kca, m_kd * m_kd
    g_k = g[3] * (m_a * m_a) * (m_a * h_a) + g[4] * (m_kca * m_kca) + g[5] * (m_kd * m_kd)
    g_h = g[6] * m_h
    total = (g_na + g_ca) + (g_k + g_h) + (g[7] + g_synapse)
    drive = (_E_NA * g_na + e_ca * g_ca) + (_E_K * g_k + _E_H * g_h) + (_E_LEAK * g[7] + drive)
    total = larger(total, F(1e-30))  # no conductance at all: V moves by dt * drive
    new_v = v + (drive / total - v) * one_minus_exp(k.single[0] * total)
    target = F(c.CALCIUM_REST) - k.single[6] * g_ca * (v - e_ca)
    return new_v, calcium + (target - calcium) * k.single[1]


@njit(forceinline=True, fastmath=FLAGS)
def cell_step(state: Any, g: Any, g_synapse: Any, drive: Any, k: Any) -> Any:
    """Advance one cell by one time step.

    Args:
        state: V, calcium, m (7), h (4), and the gates of the glutamatergic and cholinergic
            synapses that the cell makes.
        g: Maximal membrane conductances over the capacitance (8), 1/ms.
        g_synapse: Sum of the conductances of incoming synapses over the capacitance, 1/ms.
        drive: Sum of those times their reversal potentials plus the noise current, mV/ms.
        k: The table of `build_table`.

    Returns:
        The new state.
    """
    v, calcium, m_na, m_cat, m_cas, m_a, m_kca, m_kd, m_h, h_na, h_cat, h_cas, h_a, s0, s1 = state
    new_v, new_calcium = _membrane(state, g, g_synapse, drive, k)
    v = smaller(larger(v, _V_LOW), _V_HIGH)

    synapse = exp_of_v(v, k.synapse)
    q = synapse * synapse
    one_q = _ONE + q
    s_inf = q / one_q
    s0 = s0 + (s_inf - s0) * smaller(_ONE, k.single[2] * one_q)
    s1 = s1 + (s_inf - s1) * smaller(_ONE, k.single[3] * one_q)

    e_cat = exp_of_v(v, k.m_cat)
    m_na = _fast_gate(m_na, exp_of_v(v, k.m_na), exp_of_v(v, k.tau_na), k.p_na)
    h_na = _gate_h_na(v, h_na, e_cat, synapse, k)
    m_cat = _fast_gate(m_cat, e_cat, exp_of_v(v, k.tau_cat), k.p_cat)
    e_h_cat = exp_of_v(v, k.h_cat)
    h_cat = _gate(h_cat, e_h_cat, exp_of_v(v, k.tau_h_cat), k.p_h_cat)
    bell = k.links[0] * synapse + exp_of_v(v, k.tau_cas)
    m_cas = _gate(m_cas, exp_of_v(v, k.m_cas), bell, k.p_cas)
    bell = exp_of_v(v, k.tau_h_cas) + exp_of_v(v, k.tau_h_cas2)
    h_cas = _gate(h_cas, exp_of_v(v, k.h_cas), bell, k.p_h_cas)
    m_a = _gate(m_a, exp_of_v(v, k.m_a), exp_of_v(v, k.tau_a), k.p_a)
    h_a = _gate(h_a, exp_of_v(v, k.h_a), exp_of_v(v, k.tau_h_a), k.p_h_a)
    m_kca = _gate_kca(v, m_kca, calcium, k)
    m_kd = _gate(m_kd, exp_of_v(v, k.m_kd), exp_of_v(v, k.tau_kd), k.p_kd)
    m_h = _gate_h(v, m_h, e_h_cat, k)
    gates = (m_na, m_cat, m_cas, m_a, m_kca, m_kd, m_h, h_na, h_cat, h_cas, h_a, s0, s1)
    return (new_v, new_calcium, *gates)


@njit(forceinline=True, fastmath=FLAGS)
def synaptic_input(ab: Any, pd: Any, lp: Any, py: Any, g: Any) -> Any:
    """Return (conductance, drive) of the synapses onto each cell.

    Args:
        ab, pd, lp, py: Gates of the synapses that each neuron makes; AB and PD, one cell of the
            model, make glutamatergic and cholinergic ones.
        g: Maximal conductances of `SYNAPSES` over the capacitance (7), 1/ms.
    """
    onto_ab = g[4] * lp
    glut_lp, chol_lp = g[0] * ab + g[6] * py, g[1] * pd
    glut_py, chol_py = g[2] * ab + g[5] * lp, g[3] * pd
    return (
        (onto_ab, _E_GLUT * onto_ab),
        (glut_lp + chol_lp, _E_GLUT * glut_lp + _E_CHOL * chol_lp),
        (glut_py + chol_py, _E_GLUT * glut_py + _E_CHOL * chol_py),
    )
