"""Attacks: small changes of x that move the posterior far."""

from __future__ import annotations

from robust_npe.attacks.apgd import APGD
from robust_npe.attacks.auto_unit import AutoUnit, auto_unit
from robust_npe.attacks.balls import L1, L2, Ball, Domain, Linf, make_ball
from robust_npe.attacks.base import (
    Attack,
    Found,
    Noise,
    SurfaceNoise,
    best_of,
    blindness,
    frozen,
    settings,
)
from robust_npe.attacks.black_box import NES, RandomSearch
from robust_npe.attacks.classifying import (
    ComponentNLL,
    LogitMargin,
    PredictiveMargin,
    PublishedSoftmax,
)
from robust_npe.attacks.combining import Restarts, WorstCase
from robust_npe.attacks.damage import LatentShift, MaxDamage, TargetedReconstruction
from robust_npe.attacks.expectation import Expectation
from robust_npe.attacks.minimal import Minimal, minimal_radius
from robust_npe.attacks.objectives import KLForward, KLReverse, NegativeLogLikelihood, Objective
from robust_npe.attacks.pgd import FGSM, PGD, PaperPGD
from robust_npe.attacks.shifts import CoverageBreaking, MaximumMeanDiscrepancy, MeanShift
from robust_npe.attacks.standard import StandardEvaluation
from robust_npe.attacks.starts import SpectralAttack
from robust_npe.attacks.targets import TargetPosterior, TargetTheta
from robust_npe.attacks.threat import ThreatModel, data_domain, std_unit
from robust_npe.attacks.transfer import Transfer

__all__ = [
    "APGD",
    "FGSM",
    "L1",
    "L2",
    "NES",
    "PGD",
    "Attack",
    "AutoUnit",
    "Ball",
    "ComponentNLL",
    "CoverageBreaking",
    "Domain",
    "Expectation",
    "Found",
    "KLForward",
    "KLReverse",
    "LatentShift",
    "Linf",
    "LogitMargin",
    "MaxDamage",
    "MaximumMeanDiscrepancy",
    "MeanShift",
    "Minimal",
    "NegativeLogLikelihood",
    "Noise",
    "Objective",
    "PaperPGD",
    "PredictiveMargin",
    "PublishedSoftmax",
    "RandomSearch",
    "Restarts",
    "SpectralAttack",
    "StandardEvaluation",
    "SurfaceNoise",
    "TargetPosterior",
    "TargetTheta",
    "TargetedReconstruction",
    "ThreatModel",
    "Transfer",
    "WorstCase",
    "auto_unit",
    "best_of",
    "blindness",
    "data_domain",
    "frozen",
    "make_ball",
    "minimal_radius",
    "settings",
    "std_unit",
]
