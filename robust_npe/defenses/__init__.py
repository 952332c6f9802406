"""Defenses: training objectives that make amortized posteriors robust."""

from __future__ import annotations

from robust_npe.defenses.adversarial import TRADES, AdversarialTraining, NoiseAugmentation
from robust_npe.defenses.base import Batch, Defense, NoDefense
from robust_npe.defenses.fim import FIM, FIMEigenvalue
from robust_npe.defenses.post_hoc import PostHoc, deployed

__all__ = [
    "FIM",
    "TRADES",
    "AdversarialTraining",
    "Batch",
    "Defense",
    "FIMEigenvalue",
    "NoDefense",
    "NoiseAugmentation",
    "PostHoc",
    "deployed",
]
