"""Attacks: small changes of x that move the posterior far."""

from __future__ import annotations

from robust_npe.attacks.balls import L1, L2, Ball, Linf, make_ball
from robust_npe.attacks.base import Attack, Noise, frozen
from robust_npe.attacks.objectives import KLForward, KLReverse, NegativeLogLikelihood, Objective
from robust_npe.attacks.pgd import PGD
from robust_npe.attacks.threat import ThreatModel, data_domain, std_unit

__all__ = [
    "L1",
    "L2",
    "PGD",
    "Attack",
    "Ball",
    "KLForward",
    "KLReverse",
    "Linf",
    "NegativeLogLikelihood",
    "Noise",
    "Objective",
    "ThreatModel",
    "data_domain",
    "frozen",
    "make_ball",
    "std_unit",
]
