"""Tasks: priors and simulators."""

from __future__ import annotations

from robust_npe.tasks.base import Reference, Task
from robust_npe.tasks.gaussian_linear import GaussianLinear
from robust_npe.tasks.lotka_volterra import LotkaVolterra
from robust_npe.tasks.sbibm import SBIBM
from robust_npe.tasks.sir import SIR

__all__ = ["SBIBM", "SIR", "GaussianLinear", "LotkaVolterra", "Reference", "Task"]
