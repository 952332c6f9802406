"""Posteriors of other libraries, as what robust-npe understands: maps from x to a distribution."""

from robust_npe.adapters.black_box import BlackBox, BlackBoxPosterior
from robust_npe.adapters.loading import load_posterior, save_posterior
from robust_npe.adapters.prior_draws import PriorDraws, PriorDrawsDensity, PriorDrawsPosterior
from robust_npe.adapters.registry import as_posterior, register

__all__ = [
    "BlackBox",
    "BlackBoxPosterior",
    "PriorDraws",
    "PriorDrawsDensity",
    "PriorDrawsPosterior",
    "as_posterior",
    "load_posterior",
    "register",
    "save_posterior",
]
