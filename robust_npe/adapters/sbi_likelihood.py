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
    events = x.reshape(len(x), 1, *estimator.input_shape)
    events = events.expand(-1, len(theta), *estimator.input_shape)
    condition = theta.reshape(len(theta), *estimator.condition_shape)
    return estimator.log_prob(events, condition=condition)


def _log_ratio(estimator: Any, theta: Tensor, x: Tensor) -> Tensor:
    x = x.reshape(len(x), *estimator.x_shape)
    pairs = theta.repeat(len(x), 1), x.repeat_interleave(len(theta), 0)
    return estimator(*pairs).reshape(len(x), len(theta))
