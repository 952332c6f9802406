"""Estimators: amortized posteriors q(theta|x), and the nets they are made of."""

from __future__ import annotations

from robust_npe.estimators.base import Estimator, Pushforward
from robust_npe.estimators.cnn import CNN1d, CNN2d, PyloricCNN, SeriesCNN
from robust_npe.estimators.deep_set import DeepSet
from robust_npe.estimators.embeddings import MLP, Identity
from robust_npe.estimators.flows import MAF, NSF
from robust_npe.estimators.fmpe import FMPE
from robust_npe.estimators.gaussian import DiagonalGaussian, FullGaussian
from robust_npe.estimators.interfaces import Embedding, Head
from robust_npe.estimators.mixture import GaussianMixture, MixtureDensityNetwork
from robust_npe.estimators.nflows import NflowsMAF, NflowsNSF, SbiMAF, SbiNSF
from robust_npe.estimators.standardize import Standardize
from robust_npe.estimators.vae import VariationalAutoencoder

__all__ = [
    "FMPE",
    "MAF",
    "MLP",
    "NSF",
    "CNN1d",
    "CNN2d",
    "DeepSet",
    "DiagonalGaussian",
    "Embedding",
    "Estimator",
    "FullGaussian",
    "GaussianMixture",
    "Head",
    "Identity",
    "MixtureDensityNetwork",
    "NflowsMAF",
    "NflowsNSF",
    "Pushforward",
    "PyloricCNN",
    "SbiMAF",
    "SbiNSF",
    "SeriesCNN",
    "Standardize",
    "VariationalAutoencoder",
]
