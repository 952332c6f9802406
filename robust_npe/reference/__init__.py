"""True posteriors from prior and likelihood, by importance sampling or MCMC."""

from __future__ import annotations

from robust_npe.reference.diagnostics import effective_size, nested_rhat, pareto_k
from robust_npe.reference.posterior import (
    PosteriorSamples,
    ReferenceSettings,
    reference_posterior,
)
from robust_npe.reference.target import ImpossibleObservationError, Target

__all__ = [
    "ImpossibleObservationError",
    "PosteriorSamples",
    "ReferenceSettings",
    "Target",
    "effective_size",
    "nested_rhat",
    "pareto_k",
    "reference_posterior",
]
