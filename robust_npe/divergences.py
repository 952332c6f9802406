"""Divergences between distributions over theta."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution, kl_divergence

from robust_npe.antithetic import antithetic
from robust_npe.checks import require
from robust_npe.posterior import log_prob
from robust_npe.random import draws_from

__all__ = ["has_closed_form_kl", "kl", "kl_with_error", "standard_error"]


def has_closed_form_kl(p: Distribution, q: Distribution) -> bool:
    """Tell whether KL(p || q) is known in closed form for this pair."""
    return _closed_form(p, q) is not None


def kl(p: Distribution, q: Distribution, num_samples: int, generator: Generator) -> Tensor:
    r"""Return KL(p || q) for each element of the batch.

    In closed form where one exists (Gaussians, classifiers), else the Monte-Carlo estimate
    mean_s log p(theta_s) - log q(theta_s), theta_s ~ p in antithetic pairs where p offers them,
    which is unbiased and may come out slightly negative; infinite where q excludes samples of p.
    Gradients flow through both distributions, through p by reparameterised samples where p has
    them, else by the score-function estimator (once differentiable).

    Args:
        p: Distribution with batch shape `(B,)`.
        q: Distribution with the same batch and event shape.
        num_samples: Number of Monte-Carlo samples; unused by the closed form.
        generator: Source of the samples.

    Returns:
        Divergences of shape `(B,)`, in nats.
    """
    exact = _closed_form(p, q)
    return _log_ratios(p, q, num_samples, generator).mean(0) if exact is None else exact


def kl_with_error(
    p: Distribution, q: Distribution, num_samples: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Return what `kl` returns, and its Monte-Carlo standard error, both of shape `(B,)`.

    The error is 0 for a closed form, and that of `standard_error` else.
    """
    exact = _closed_form(p, q)
    if exact is not None:
        return exact, torch.zeros_like(exact)
    terms = _log_ratios(p, q, num_samples, generator)
    return terms.mean(0), standard_error(terms, paired=p.has_rsample)


def standard_error(terms: Tensor, paired: bool) -> Tensor:
    """Return the standard error `(B,)` of the mean of terms `(S, B)`.

    Neighbours are one observation where they may be antithetic pairs: their errors cancel. The
    last of an odd number is left out then. NaN for a single term or pair.
    """
    terms = terms.detach()
    if paired:
        terms = (terms[:-1:2] + terms[1::2]) / 2
    if len(terms) < 2:
        return terms.new_full(terms.shape[1:], torch.nan)
    return terms.std(0) / len(terms) ** 0.5


def _closed_form(p: Distribution, q: Distribution) -> Tensor | None:
    try:
        return kl_divergence(p, q)
    except NotImplementedError:
        return None


def _log_ratios(p: Distribution, q: Distribution, num_samples: int, generator: Generator) -> Tensor:
    """Return log p - log q of samples of p, shape `(S, B)`, whose mean is differentiable."""
    require(num_samples > 0, "num_samples", num_samples, "a positive integer")
    if p.has_rsample:
        with draws_from(generator):
            theta = antithetic(p).rsample((num_samples,))
        return p.log_prob(theta) - log_prob(q, theta)
    with draws_from(generator):
        theta = p.sample((num_samples,))
    return _score_function(p.log_prob(theta), log_prob(q, theta))


def _score_function(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return log p - log q `(S, B)` with the gradient of its mean under p as far as that depends on
    what p's samples cannot carry: (log p - log q) grad log p, the mean of the other samples, which
    are independent, subtracted as a baseline.

    References:
        Kool, van Hoof & Welling (2019), "Buy 4 REINFORCE samples, get a baseline for free!",
        https://openreview.net/forum?id=r1lgTGL5DE
    """
    value = log_p.detach() - log_q
    if not log_p.requires_grad:
        return value
    advantage = value.detach()
    if len(value) > 1:
        advantage = (advantage - advantage.mean(0)) * len(value) / (len(value) - 1)
    advantage = torch.where(advantage.isfinite(), advantage, 0.0)  # infinity has no slope
    return value + (log_p - log_p.detach()) * advantage
