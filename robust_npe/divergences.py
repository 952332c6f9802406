"""Divergences between distributions over theta."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution, kl_divergence

from robust_npe.antithetic import antithetic
from robust_npe.checks import require_positive_integer
from robust_npe.posterior import log_prob
from robust_npe.random import draws_from

__all__ = [
    "closed_form_kl",
    "draws",
    "has_closed_form_kl",
    "kl",
    "kl_with_error",
    "log_ratios",
    "mean_with_error",
    "standard_error",
]

# where a control variate is used: largest KL in nats, largest spread of q/p over pairs of samples,
# and how many standard errors its mean may be away from 1
SMALL, SPREAD, CENTRED = 0.1, 0.4, 5.0
ENOUGH = 48  # pairs; with fewer, the standard error is too small


def has_closed_form_kl(p: Distribution, q: Distribution) -> bool:
    """Tell whether KL(p || q) is known in closed form for this pair."""
    return closed_form_kl(p, q) is not None


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
    exact = closed_form_kl(p, q)
    return log_ratios(p, q, num_samples, generator).mean(0) if exact is None else exact


def kl_with_error(
    p: Distribution, q: Distribution, num_samples: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Return KL(p || q) and its Monte-Carlo standard error, both of shape `(B,)`, without graph.

    The error is 0 for a closed form. Else both come from the samples that `kl` would draw, see
    `mean_with_error`: for measuring, where `kl` is for climbing.
    """
    exact = closed_form_kl(p, q)
    if exact is not None:
        return exact.detach(), torch.zeros_like(exact)
    terms = log_ratios(p, q, num_samples, generator).detach()
    return mean_with_error(terms, paired=p.has_rsample)


def mean_with_error(terms: Tensor, paired: bool) -> tuple[Tensor, Tensor]:
    """Return the mean of log p/q over samples of p, and its standard error, both of shape `(B,)`.

    Near zero the terms are noise: log p/q = (1 - q/p) + O((1 - q/p)^2), and only the second part
    has the KL as its mean. So c (q/p - 1), of mean zero, is subtracted from each pair of samples (a
    control variate) with the c that leaves the least variance (a regression). One half of the pairs
    decides on the c of the other half, and whether to use it at all: nothing becomes biased. It is
    used where the KL and the spread of q/p are small, and the mean of q/p looks like 1: else the
    samples miss what is heavy in the tails of q/p, or q has mass outside of the support of p.

    Args:
        terms: log p/q of samples of p, shape `(S, B)`.
        paired: Whether neighbours may be antithetic pairs, see `standard_error`.

    References:
        Owen (2013), "Monte Carlo theory, methods and examples", sections 8.9 and 8.10,
        https://artowen.su.domains/mc/
    """
    f, r = (_pairs(v.double(), paired) for v in (terms, torch.expm1(-terms.double())))
    corrected = f.clone()
    for half in (0, 1) if len(f) >= ENOUGH else ():
        c = _coefficient(f[1 - half :: 2], r[1 - half :: 2])
        correction = c * r[half::2]
        corrected[half::2] -= torch.where(c == 0, 0.0, correction)  # r may be infinite where c is 0
    used = (corrected != f).any(0)
    value = torch.where(used, corrected.mean(0).to(terms.dtype), terms.mean(0))
    return value, standard_error(corrected, paired=False).to(terms.dtype)


def _coefficient(f: Tensor, r: Tensor) -> Tensor:
    """Return the slope `(B,)` of f on r, both `(S, B)`; 0 where it must not be used."""
    variance, mean = r.var(0), r.mean(0)
    covariance = ((f - f.mean(0)) * (r - mean)).sum(0) / (len(f) - 1)
    small = (f.mean(0).abs() < SMALL) & (variance < SPREAD**2)
    centred = mean.square() < CENTRED**2 * variance / len(f)
    return torch.where(small & centred, covariance / variance, 0.0)


def standard_error(terms: Tensor, paired: bool) -> Tensor:
    """Return the standard error `(B,)` of the mean of terms `(S, B)`.

    Neighbours are one observation where they may be antithetic pairs: their errors cancel. The
    last of an odd number is left out then. NaN for a single term or pair.
    """
    terms = _pairs(terms.detach(), paired)
    if len(terms) < 2:
        return terms.new_full(terms.shape[1:], torch.nan)
    return terms.std(0) / len(terms) ** 0.5


def _pairs(terms: Tensor, paired: bool) -> Tensor:
    """Return the means of neighbours where these are pairs, without the last of an odd number."""
    return (terms[:-1:2] + terms[1::2]) / 2 if paired else terms


def closed_form_kl(p: Distribution, q: Distribution) -> Tensor | None:
    """Return KL(p || q), shape `(B,)`, where it is known for this pair, else None."""
    try:
        return kl_divergence(p, q)
    except NotImplementedError:
        return None


def log_ratios(p: Distribution, q: Distribution, num_samples: int, generator: Generator) -> Tensor:
    """Return log p - log q of samples of p, shape `(S, B)`, whose mean is differentiable; in
    antithetic pairs where p offers them."""
    theta, log_p = draws(p, num_samples, generator)
    log_q = log_prob(q, theta)
    return log_p - log_q if p.has_rsample else _score_function(log_p, log_q)


def draws(p: Distribution, num_samples: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return samples of p, reparameterised and in antithetic pairs where p offers that, and log p
    at them, shape `(S, B)`."""
    require_positive_integer("num_samples", num_samples)
    with draws_from(generator):
        theta = (antithetic(p).rsample if p.has_rsample else p.sample)((num_samples,))
    return theta, p.log_prob(theta)


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
