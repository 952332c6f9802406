"""Defenses: training objectives that make amortized posteriors robust."""

from __future__ import annotations

from robust_npe.defenses.adversarial import TRADES, AdversarialTraining, NoiseAugmentation
from robust_npe.defenses.base import Batch, Defense, NoDefense
from robust_npe.defenses.fim import FIM, FIMEigenvalue

__all__ = [
    "FIM",
    "TRADES",
    "AdversarialTraining",
    "Batch",
    "Defense",
    "FIMEigenvalue",
    "NoDefense",
    "NoiseAugmentation",
]
