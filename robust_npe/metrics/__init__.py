"""Metrics: what is measured on clean and on attacked observations."""

from __future__ import annotations

from robust_npe.metrics.base import Context, Measurement, Metric
from robust_npe.metrics.certified import CertifiedKL
from robust_npe.metrics.classification import (
    Accuracy,
    ExpectedGradient,
    SoftmaxRobustness,
    WeightPosterior,
)
from robust_npe.metrics.coverage import Coverage, coverage_curve, coverage_summary
from robust_npe.metrics.detectability import Detectability
from robust_npe.metrics.divergence import Divergence
from robust_npe.metrics.information import InformationGain, Leakage
from robust_npe.metrics.likelihood import NLL
from robust_npe.metrics.margins import MarginBound, MarginMeasured
from robust_npe.metrics.masking import Masking
from robust_npe.metrics.minimal_radius import MinimalRadius
from robust_npe.metrics.mmd import MMD, mmd
from robust_npe.metrics.post_hoc import EffectiveSize, SmoothingBias
from robust_npe.metrics.predictive import Predictive
from robust_npe.metrics.reconstruction import (
    LikelihoodDegradation,
    ReconstructionDamage,
    RRobustness,
)
from robust_npe.metrics.reference import ReferencePosterior
from robust_npe.metrics.sbc import SBC
from robust_npe.metrics.soundness import Soundness
from robust_npe.metrics.tarp import TARP
from robust_npe.metrics.truth import TruePosterior
from robust_npe.metrics.two_sample import C2ST, c2st

__all__ = [
    "C2ST",
    "MMD",
    "NLL",
    "SBC",
    "TARP",
    "Accuracy",
    "CertifiedKL",
    "Context",
    "Coverage",
    "Detectability",
    "Divergence",
    "EffectiveSize",
    "ExpectedGradient",
    "InformationGain",
    "Leakage",
    "LikelihoodDegradation",
    "MarginBound",
    "MarginMeasured",
    "Masking",
    "Measurement",
    "Metric",
    "MinimalRadius",
    "Predictive",
    "RRobustness",
    "ReconstructionDamage",
    "ReferencePosterior",
    "SmoothingBias",
    "SoftmaxRobustness",
    "Soundness",
    "TruePosterior",
    "WeightPosterior",
    "c2st",
    "coverage_curve",
    "coverage_summary",
    "mmd",
]
