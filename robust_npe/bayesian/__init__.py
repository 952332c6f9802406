"""Bayesian neural networks: classifiers with a posterior over their weights."""

from __future__ import annotations

from robust_npe.bayesian.hmc import HMC
from robust_npe.bayesian.inference import Inference, InferenceState
from robust_npe.bayesian.mixture import CategoricalMixture
from robust_npe.bayesian.network import WeightEnsemble
from robust_npe.bayesian.sgd import SGD, SWAG, DeepEnsemble
from robust_npe.bayesian.vi import MeanFieldVI

__all__ = [
    "HMC",
    "SGD",
    "SWAG",
    "CategoricalMixture",
    "DeepEnsemble",
    "Inference",
    "InferenceState",
    "MeanFieldVI",
    "WeightEnsemble",
]
