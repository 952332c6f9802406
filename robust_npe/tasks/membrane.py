"""Membrane equations of a spiking compartment, written to work in place on many at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Membrane", "resting_state"]

V_REST, V_THRESHOLD, TAU_MAX = -70.0, -60.0, 600.0

# The rates are x / (exp(x) - 1), 0/0 at three voltages. Moving these by a billionth of a millivolt
# keeps round numbers, such as an initial voltage, off them; the rate there is right to 1e-7.
M_OPEN, M_CLOSE, N_OPEN = (V_THRESHOLD + v + 1e-9 for v in (13.0, 40.0, 15.0))


class Membrane:
    """dV/dt and the gates' derivatives without the injected current.

    The state is (V, m, n, h, p), shape `(5, B)`. With v = V - V_threshold in mV, rates in 1/ms
    and e(z) = z / (exp(z) - 1), the opening and closing rates are: m: 1.28 e(-(v - 13) / 4),
    1.4 e((v - 40) / 5); n: 0.16 e(-(v - 15) / 5), 0.5 exp(-(v - 10) / 40);
    h: 0.128 exp(-(v - 17) / 18), 4 / (1 + exp(-(v - 40) / 5)); p: p_inf / tau_p,
    (1 - p_inf) / tau_p, with p_inf = 1 / (1 + exp(-(V + 35) / 10)) and
    tau_p = tau_max / (3.3 exp((V + 35) / 20) + exp(-(V + 35) / 20)).

    All exponentials but one are powers of exp(V / 40), which makes them cheap.

    Args:
        parameters: g_Na, g_K, g_M, C, E_leak, E_Na, E_K, shape `(7, B)`.
        gain: What turns the sum of currents into dV/dt, shape `(B,)`.
        g_leak: Leak conductance.
    """

    def __init__(self, parameters: Tensor, gain: Tensor, g_leak: float) -> None:
        g_na, g_k, g_m, _, e_leak, self.e_na, self.e_k = parameters
        self.g_na, self.g_k, self.g_m = g_na * gain, g_k * gain, g_m * gain
        self.minus_leak, self.leak = -g_leak * gain, g_leak * gain * e_leak
        count = parameters.shape[1]
        self.opening, self.total = parameters.new_empty(2, 4, count)
        self.scratch = parameters.new_empty(6, count)

    def __call__(self, state: Tensor, out: Tensor) -> None:
        """Write the derivative of `state (5, B)` into `out (5, B)`."""
        voltage, gates, change = state[0], state[1:], out[0]
        m, n, h, p = gates
        conductance, driving = self.scratch[:2]
        self.rates(voltage)
        torch.addcmul(self.opening, self.total, gates, value=-1, out=out[1:])
        torch.addcmul(self.leak, self.minus_leak, voltage, out=change)
        torch.mul(m, m, out=conductance)
        conductance.mul_(m).mul_(h).mul_(self.g_na)
        torch.sub(self.e_na, voltage, out=driving)
        change.addcmul_(conductance, driving)
        torch.mul(n, n, out=conductance)
        conductance.mul_(conductance).mul_(self.g_k).addcmul_(self.g_m, p)
        torch.sub(self.e_k, voltage, out=driving)
        change.addcmul_(conductance, driving)

    def rates(self, voltage: Tensor) -> None:
        """Set the gates' opening rates and the sums of opening and closing rates, `(4, B)`."""
        power, power2, power8, power10, a, b = self.scratch
        torch.mul(voltage, 1 / 40, out=power).exp_()
        torch.mul(power, power, out=power2)
        torch.mul(power2, power2, out=power8).mul_(power8)
        torch.mul(power8, power2, out=power10)
        self._sodium_activation(voltage, power8, power10, a)
        self._potassium(voltage, power, power8, a)
        self._sodium_inactivation(voltage, power8, a, b)
        self._muscarinic(power2, a, b)

    def _sodium_activation(self, v: Tensor, power8: Tensor, power10: Tensor, a: Tensor) -> None:
        opening, total = self.opening[0], self.total[0]
        torch.sub(power10, math.exp(M_OPEN / 4), out=a)
        torch.sub(v, M_OPEN, out=opening).mul_(power10).div_(a).mul_(0.32)
        at_half = math.exp(M_CLOSE / 5)
        torch.sub(power8, at_half, out=a)
        torch.sub(v, M_CLOSE, out=total).div_(a).mul_(0.28 * at_half).add_(opening)

    def _potassium(self, v: Tensor, power: Tensor, power8: Tensor, a: Tensor) -> None:
        opening, total = self.opening[1], self.total[1]
        torch.sub(power8, math.exp(N_OPEN / 5), out=a)
        torch.sub(v, N_OPEN, out=opening).mul_(power8).div_(a).mul_(0.032)
        torch.reciprocal(power, out=a)
        torch.add(opening, a, alpha=0.5 * math.exp((V_THRESHOLD + 10) / 40), out=total)

    def _sodium_inactivation(self, v: Tensor, power8: Tensor, a: Tensor, b: Tensor) -> None:
        opening, total = self.opening[2], self.total[2]
        torch.mul(v, -1 / 18, out=opening)
        opening.exp_().mul_(0.128 * math.exp((V_THRESHOLD + 17) / 18))
        torch.add(power8, math.exp((V_THRESHOLD + 40) / 5), out=a)
        torch.div(power8, a, out=b)
        torch.add(opening, b, alpha=4, out=total)

    def _muscarinic(self, power2: Tensor, a: Tensor, b: Tensor) -> None:
        opening, total = self.opening[3], self.total[3]
        w = power2.mul_(math.exp(35 / 20))
        torch.mul(w, w, out=a)
        torch.mul(a, 3.3 / TAU_MAX, out=b).add_(1 / TAU_MAX)
        torch.div(b, w, out=total)
        torch.mul(b, w, out=opening).div_(a.add_(1))


def resting_state(parameters: Tensor) -> Tensor:
    """Return (V, m, n, h, p) at -70 mV with the gates in equilibrium, shape `(5, B)`."""
    state = parameters.new_full((5, parameters.shape[1]), V_REST)
    membrane = Membrane(parameters, torch.ones_like(parameters[0]), 0.0)
    membrane.rates(state[0])
    torch.div(membrane.opening, membrane.total, out=state[1:])
    return state
