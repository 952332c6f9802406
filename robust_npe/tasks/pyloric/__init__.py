"""The pyloric network of the crab: simulator, summary statistics, validity filter.

Nothing is compiled on import: the first call of a kernel compiles it (seconds), announces it
through `logging` and keeps the result in a cache.
"""

from __future__ import annotations

from robust_npe.tasks.pyloric.constants import (
    CELLS,
    NUM_PARAMETERS,
    PARAMETER_NAMES,
    PRIOR_HIGH,
    PRIOR_LOW,
    SYNAPSES,
)
from robust_npe.tasks.pyloric.noise import normals
from robust_npe.tasks.pyloric.simulate import Exact, Simulation, simulate, simulate_exact
from robust_npe.tasks.pyloric.summary import (
    OPTIONAL_STATISTICS,
    STATISTICS,
    Summary,
    energies,
    spikes,
    summarize,
)
from robust_npe.tasks.pyloric.task import Pyloric
from robust_npe.tasks.pyloric.temperature import Q10

__all__ = [
    "CELLS",
    "NUM_PARAMETERS",
    "OPTIONAL_STATISTICS",
    "PARAMETER_NAMES",
    "PRIOR_HIGH",
    "PRIOR_LOW",
    "Q10",
    "STATISTICS",
    "SYNAPSES",
    "Exact",
    "Pyloric",
    "Simulation",
    "Summary",
    "energies",
    "normals",
    "simulate",
    "simulate_exact",
    "spikes",
    "summarize",
]
