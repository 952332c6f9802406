"""What the posterior learned beyond the prior, and what it says that the prior excludes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution
from typing_extensions import override

from robust_npe.checks import require_positive_integer
from robust_npe.divergences import standard_error
from robust_npe.metrics.base import (
    Context,
    Measurement,
    Metric,
    batched,
    estimate_measurements,
    summary_rows,
)
from robust_npe.posterior import (
    Posterior,
    as_events,
    as_vectors,
    is_outside,
    log_prob,
    sample_and_log_prob,
)
from robust_npe.random import draws_from, stream
from robust_npe.tasks.base import Task

__all__ = ["InformationGain", "Leakage", "share_outside"]


def _log_prior(context: Context, theta: Tensor) -> Tensor:
    """Return log p(theta) of vectors `(*, D)`; minus infinity outside of the prior's support."""
    prior = context.task.prior  # tasks live on the CPU
    flat = theta.cpu().reshape(-1, *prior.event_shape)
    missing = flat.isnan().reshape(len(flat), -1).any(-1)  # distributions raise errors for them
    if missing.any():
        with draws_from(stream(0, "stand-in")):
            stand_in = prior.sample()
        flat = torch.where(missing.view(-1, *(1 for _ in prior.event_shape)), stand_in, flat)
    found = torch.where(missing, torch.nan, log_prob(prior, flat))
    return found.reshape(theta.shape[:-1]).to(theta)


class InformationGain(Metric):
    """How much q(.|x~) says beyond the prior, in nats.

    - `information_gain` = log q(theta|x~) - log p(theta) at the parameters that generated the clean
      x. Its mean on clean data is a lower bound of the mutual information of theta and x; below
      zero, the prior would have been better;
    - `kl_prior` = KL(q(.|x~) || p): how far q moved from the prior, rightly or not. Large beside a
      small gain is confident and wrong. Infinite where q reaches outside of the prior's support.

    References:
        Lindley (1956), "On a measure of the information provided by an experiment",
        https://doi.org/10.1214/aoms/1177728069

    Args:
        num_samples: Posterior samples per observation.
    """

    name = "information_gain"
    needs_theta = True

    def __init__(self, num_samples: int = 256) -> None:
        require_positive_integer("metrics.information_gain.num_samples", num_samples)
        self.num_samples = num_samples

    @override
    def missing(self, task: Task, estimator: Posterior, defense: str) -> str:
        return "" if task.prior_density else "a prior with a density (task.prior=uniform)"

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        if not context.task.prior_density:
            return []
        generator = context.generator("information gain")

        def gain(theta: Tensor, _: Tensor, x_adv: Tensor) -> Tensor:
            q = context.q(x_adv)
            log_q = log_prob(q, as_events(q, theta))
            return log_q - _log_prior(context, theta.reshape(len(theta), -1))

        def divergence(_: Tensor, __: Tensor, x_adv: Tensor) -> Tensor:
            q = context.q(x_adv)
            with draws_from(generator):
                samples, log_q = sample_and_log_prob(q, (self.num_samples,))
            terms = log_q - _log_prior(context, as_vectors(q, samples))
            return torch.stack((terms.mean(0), standard_error(terms, paired=False)), dim=-1)

        values = batched(context, gain)
        kl = estimate_measurements(context, {"kl_prior": batched(context, divergence)})
        return [Measurement("information_gain", summary_rows(values), values), *kl]


class Leakage(Metric):
    """`leakage`: the mass of q(.|x~) outside of the support of the prior, between 0 and 1.

    0 by construction for the estimators of this package, which map to the support by a bijection;
    estimators of other kinds leak, and coverage and KL to the truth suffer from it. Left out where
    nobody said where parameters may lie (`Task.knows_support`).

    References:
        Deistler, Goncalves & Macke (2022), "Truncated proposals for scalable and hassle-free
        simulation-based inference", https://arxiv.org/abs/2210.04815

    Args:
        num_samples: Posterior samples per observation.
    """

    name = "leakage"

    def __init__(self, num_samples: int = 1000) -> None:
        require_positive_integer("metrics.leakage.num_samples", num_samples)
        self.num_samples = num_samples

    @override
    def missing(self, task: Task, estimator: Posterior, defense: str) -> str:
        return "" if task.knows_support else "bounds of the parameters (task.low and task.high)"

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        if not context.task.knows_support:
            return []
        generator = context.generator("leakage")

        def outside(_: Tensor, __: Tensor, x_adv: Tensor) -> Tensor:
            q = context.q(x_adv)
            with draws_from(generator):
                samples = as_vectors(q, q.sample((self.num_samples,)))
            return share_outside(context.task.prior, samples)

        values = batched(context, outside)
        return [Measurement("leakage", summary_rows(values), values)]


def share_outside(prior: Distribution, samples: Tensor) -> Tensor:
    """Return the share of samples `(S, B, D)` outside of the prior's support, `(B,)`, of those that
    are numbers: NaN where none is."""
    flat = samples.float().cpu().reshape(-1, *prior.event_shape)
    outside = is_outside(prior, flat).reshape(samples.shape[:-1]).double()
    missing = samples.isnan().any(-1).to(outside.device)
    return torch.where(missing, torch.nan, outside).nanmean(0)
