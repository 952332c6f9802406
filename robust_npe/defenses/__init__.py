"""Defenses: training objectives that make amortized posteriors robust."""

from __future__ import annotations

from robust_npe.defenses.adversarial import TRADES, AdversarialTraining, NoiseAugmentation
from robust_npe.defenses.base import Batch, Defense, NoDefense, member_seed
from robust_npe.defenses.dro import DRO
from robust_npe.defenses.ensemble import Ensemble, EnsemblePosterior
from robust_npe.defenses.fim import FIM, FIMEigenvalue
from robust_npe.defenses.jacobian import Jacobian
from robust_npe.defenses.post_hoc import PostHoc
from robust_npe.defenses.resampling import Resampled, ResampledPosterior, Resampling
from robust_npe.defenses.smoothing import SmoothedPosterior, Smoothing
from robust_npe.defenses.spectral import Spectral
from robust_npe.defenses.weights import SWAGWeights, VIWeights

__all__ = [
    "DRO",
    "FIM",
    "TRADES",
    "AdversarialTraining",
    "Batch",
    "Defense",
    "Ensemble",
    "EnsemblePosterior",
    "FIMEigenvalue",
    "Jacobian",
    "NoDefense",
    "NoiseAugmentation",
    "PostHoc",
    "Resampled",
    "ResampledPosterior",
    "Resampling",
    "SWAGWeights",
    "SmoothedPosterior",
    "Smoothing",
    "Spectral",
    "VIWeights",
    "member_seed",
]
