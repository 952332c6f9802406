"""Estimators of lampe: NPE and FMPE hold a flow, NRE a ratio.

References:
    Rozet et al. (2021), LAMPE, https://github.com/probabilists/lampe
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution

from robust_npe.adapters.modules import ModulePosterior
from robust_npe.adapters.prior_draws import PriorDrawsPosterior

__all__ = ["adapt_flow", "adapt_ratio"]


def adapt_flow(estimator: Any) -> ModulePosterior:
    """Return `lampe.inference.NPE` or `FMPE` as a posterior; calling them would give a density."""
    return ModulePosterior(estimator, _flow)


def adapt_ratio(
    estimator: nn.Module, prior: Distribution, num_draws: int = 2000, seed: int = 0
) -> PriorDrawsPosterior:
    """Return `lampe.inference.NRE` as a posterior over draws from the prior; see
    `PriorDrawsPosterior`. lampe's estimators do not know the prior: hand it over."""
    return PriorDrawsPosterior(estimator, _log_ratio, prior, num_draws, seed)


def _flow(estimator: Any, x: Tensor) -> Distribution:
    return estimator.flow(x)


def _log_ratio(estimator: Any, theta: Tensor, x: Tensor) -> Tensor:
    return estimator(theta, x)
