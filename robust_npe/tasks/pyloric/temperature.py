"""How the model depends on temperature: Q10 factors."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

__all__ = ["Q10"]

_REFERENCE = 283.0


@dataclass(frozen=True)
class Q10:
    """Factors by which conductances and rates grow for 10 K more than 283 K.

    The defaults are those of the public simulator; at 283 K all of them are without effect.
    The time constants of m_CaS and m_KCa keep factors of their own, as there.

    Attributes:
        Na, CaT, CaS, A, KCa, Kd, H, Leak: Maximal conductances of the membrane currents.
        Glut, Chol: Maximal conductances of the synapses.
        tau_m, tau_h: Rates of activation and inactivation.
        tau_calcium: Rate of calcium buffering.
        tau_glut, tau_chol: Rates of the synapses.
    """

    Na: float = 1.5
    CaT: float = 1.5
    CaS: float = 1.5
    A: float = 1.5
    KCa: float = 1.5
    Kd: float = 1.5
    H: float = 1.5
    Leak: float = 1.5
    Glut: float = 1.5
    Chol: float = 1.5
    tau_m: float = 2.4
    tau_h: float = 2.8
    tau_calcium: float = 2.0
    tau_glut: float = 1.7
    tau_chol: float = 1.7

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"Q10 {field.name} must be a positive number, got {value}")

    def membrane(self, temperature: float) -> NDArray[np.float64]:
        """Factors of the eight membrane conductances, in the order of `CURRENTS`."""
        q10 = [self.Na, self.CaT, self.CaS, self.A, self.KCa, self.Kd, self.H, self.Leak]
        return _factor(q10, temperature)

    def synaptic(self, temperature: float) -> NDArray[np.float64]:
        """Factors of the (glutamatergic, cholinergic) conductances."""
        return _factor([self.Glut, self.Chol], temperature)

    def rates(self, temperature: float) -> NDArray[np.float64]:
        """Factors of all rates: m (7, order of the currents), h (4), calcium, glut, chol."""
        m = [self.tau_m, self.tau_m, 2.0, self.tau_m, 1.6, self.tau_m, self.tau_m]
        rest = [self.tau_calcium, self.tau_glut, self.tau_chol]
        return _factor([*m, *(4 * [self.tau_h]), *rest], temperature)


def _factor(q10: list[float], temperature: float) -> NDArray[np.float64]:
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be in kelvin and positive, got {temperature}")
    return np.asarray(np.array(q10) ** ((temperature - _REFERENCE) / 10.0))
