"""Neural likelihood (NLE) and ratio (NRE) estimation of sbi: posteriors over draws of the prior."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from robust_npe.adapters.prior_draws import PriorDrawsPosterior

__all__ = ["adapt_likelihood", "adapt_ratio"]


def adapt_likelihood(
    estimator: Any, prior: Any, num_draws: int = 2000, seed: int = 0
) -> PriorDrawsPosterior:
    """Return q(theta_m|x) of a likelihood estimator p(x|theta); see `PriorDrawsPosterior`."""
    return PriorDrawsPosterior(estimator, _log_likelihood, prior, num_draws, seed)


def adapt_ratio(
    estimator: Any, prior: Any, num_draws: int = 2000, seed: int = 0
) -> PriorDrawsPosterior:
    """Return q(theta_m|x) of a ratio estimator p(x|theta)/p(x); see `PriorDrawsPosterior`."""
    return PriorDrawsPosterior(estimator, _log_ratio, prior, num_draws, seed)


def _log_likelihood(estimator: Any, theta: Tensor, x: Tensor) -> Tensor:
    events = x.reshape(1, len(x), *estimator.input_shape)
    condition = theta.reshape(len(theta), *estimator.condition_shape)
    return estimator.log_prob(events, condition=condition)[0]


def _log_ratio(estimator: Any, theta: Tensor, x: Tensor) -> Tensor:
    return estimator(theta, x.reshape(len(x), *estimator.x_shape)).reshape(len(x))
