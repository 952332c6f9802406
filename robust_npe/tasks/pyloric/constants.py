"""Names, prior ranges and physical constants of the pyloric network.

Units: mV, ms, uM (calcium), uF, mS, uA. The rate functions themselves stand in `exact` (one
formula per gate, float64) and in `cell` (the same functions rearranged for speed, float32).
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["CELLS", "NUM_PARAMETERS", "PARAMETER_NAMES", "PRIOR_HIGH", "PRIOR_LOW", "SYNAPSES"]

CELLS: Final = ("AB/PD", "LP", "PY")
CURRENTS: Final = ("Na", "CaT", "CaS", "A", "KCa", "Kd", "H", "Leak")
SYNAPSES: Final = ("AB-LP", "PD-LP", "AB-PY", "PD-PY", "LP-PD", "LP-PY", "PY-LP")

PARAMETER_NAMES: Final = tuple(f"{cell} {current}" for cell in CELLS for current in CURRENTS) + (
    SYNAPSES
)
NUM_PARAMETERS: Final = len(PARAMETER_NAMES)

_SYNAPSE_LOW = math.log(1e-8)
# Uniform prior. Membrane conductances in mS/cm^2: the ranges of Prinz, Bucher & Marder (2004),
# widened and cut at zero as in Goncalves et al. (2020). Synapses: natural logarithm of mS.
PRIOR_LOW: Final = (
    *(0.0, 0.0, 0.0, 0.0, 0.0, 25.0, 0.0, 0.0),
    *(0.0, 0.0, 2.0, 10.0, 0.0, 0.0, 0.0, 0.01),
    *(0.0, 0.0, 0.0, 30.0, 0.0, 50.0, 0.0, 0.0),
    *(7 * (_SYNAPSE_LOW,)),
)
PRIOR_HIGH: Final = (
    *(500.0, 7.5, 8.0, 60.0, 15.0, 150.0, 0.02, 0.01),
    *(200.0, 2.5, 12.0, 60.0, 10.0, 125.0, 0.06, 0.04),
    *(600.0, 12.5, 4.0, 60.0, 5.0, 150.0, 0.06, 0.04),
    *(math.log(1e-2), *(6 * (math.log(1e-3),))),
)

AREA: Final = 0.628e-3  # cm^2, turns mS/cm^2 into mS
CAPACITANCE: Final = 0.6283e-3  # uF; not the area in other units: both numbers are the model's

E_NA: Final = 50.0
E_K: Final = -80.0
E_H: Final = -20.0
E_LEAK: Final = -50.0
REVERSALS: Final = (E_NA, 0.0, 0.0, E_K, E_K, E_K, E_H, E_LEAK)  # calcium's follows Nernst

V_START: Final = -50.0
CALCIUM_START: Final = 0.05
CALCIUM_REST: Final = 0.05
CALCIUM_OUTSIDE: Final = 3000.0
CALCIUM_TAU: Final = 200.0
CALCIUM_PER_CURRENT: Final = 14961.0  # uM/uA
NERNST_PER_KELVIN: Final = 8314.51 / (2 * 96485.3415)  # R/(2F) in mV/K

# Synapse i runs from SYNAPSE_PRE[i] to SYNAPSE_POST[i] (numbers of cells).
SYNAPSE_PRE: Final = (0, 0, 0, 0, 1, 1, 2)
SYNAPSE_POST: Final = (1, 1, 2, 2, 0, 2, 1)
GLUTAMATERGIC: Final = (True, False, True, False, True, True, True)
E_GLUTAMATE: Final = -70.0
E_CHOLINE: Final = -80.0
K_GLUTAMATE: Final = 40.0
K_CHOLINE: Final = 100.0

# The validity filter of Gloeckler et al. (2023): every cell has more than 5 samples above
# +20 mV on a grid of 0.25 ms, i.e. it spikes.
SPIKE_LEVEL: Final = 20.0
SPIKE_SAMPLES: Final = 5
SPIKE_GRID: Final = 0.25
