"""Samples of the true posterior p(theta|x) with a verdict on whether to trust them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from robust_npe.checks import require
from robust_npe.random import draws_from
from robust_npe.reference.diagnostics import MAX_PARETO_K, MAX_RHAT, effective_size, pareto_k
from robust_npe.reference.importance import Adapted, Population, adapt, resample, shares
from robust_npe.reference.proposals import Amortized, Prior, Proposal
from robust_npe.reference.target import Target
from robust_npe.tasks.base import Task

__all__ = ["METHODS", "PosteriorSamples", "ReferenceSettings", "reference_posterior"]

log = logging.getLogger(__name__)

METHODS = ("auto", "exact", "importance", "mcmc")


@dataclass
class ReferenceSettings:
    """How true posteriors are computed.

    Attributes:
        num_samples: Samples per observation.
        method: `auto` takes the closed form where there is one, else importance sampling, and
            MCMC where that fails; `exact`, `importance` or `mcmc` force one of them.
        batch: Likelihoods per round of the adaptation.
        max_rounds: Rounds of the adaptation at most.
        max_evaluations: Importance samples at most, after the adaptation.
        defensive: Share of importance samples from the prior and the estimator.
        walkers: Walkers in each of the four MCMC ensembles.
        steps: Steps of each ensemble, half of which are warm-up.
    """

    num_samples: int = 1000
    method: str = "auto"
    batch: int = 4096
    max_rounds: int = 40
    max_evaluations: int = 200_000
    defensive: float = 0.2
    walkers: int = 256
    steps: int = 400

    def __post_init__(self) -> None:
        """Check the ranges."""
        least = {"num_samples": 1, "batch": 100, "max_rounds": 1, "max_evaluations": 100}
        for name, low in {**least, "walkers": 4, "steps": 10}.items():
            value = getattr(self, name)
            require(value >= low, f"reference.{name}", value, f"at least {low}")
        require(self.method in METHODS, "reference.method", self.method, f"one of {METHODS}")
        inside = 0 < self.defensive < 1
        require(inside, "reference.defensive", self.defensive, "between 0 and 1, both excluded")


@dataclass(frozen=True)
class PosteriorSamples:
    """The true posterior of one observation.

    Attributes:
        samples: Equally weighted samples, shape `(S, D)`, float32, in random order.
        theta: All draws that the numbers below rest on, shape `(N, D)`, float32.
        weights: Their weights, shape `(N,)`, summing to one.
        log_prob: Their normalised log density log p(theta|x), shape `(N,)`, float64.
        log_evidence: Estimate of log p(x); 0 for a closed form, where it is not needed.
        method: `exact`, `importance` or `mcmc`.
        ess: Effective number of samples behind `samples`.
        diagnostic: `pareto_k` (importance sampling; at most 0.7 is good), `rhat` (MCMC; at most
            1.01) or empty.
        diagnostic_value: Its value.
        converged: Whether ESS and diagnostic are good enough to call this a reference.
        evaluations: Number of likelihoods computed.
    """

    samples: Tensor
    theta: Tensor
    weights: Tensor
    log_prob: Tensor
    log_evidence: float
    method: str
    ess: float
    diagnostic: str
    diagnostic_value: float
    converged: bool
    evaluations: int

    def expectation(self, values: Tensor) -> float:
        """Return the posterior mean of a function from its values `(N,)` at `theta`."""
        counted = self.weights > 0  # an infinite value of no weight must not give NaN
        return float((self.weights[counted] * values.double()[counted]).sum())


def reference_posterior(
    task: Task,
    x: Tensor,
    proposals: Sequence[Distribution],
    generator: Generator,
    settings: ReferenceSettings | None = None,
) -> PosteriorSamples:
    """Compute the true posterior of one observation.

    Importance samples come from a mixture of t distributions that is adapted to the posterior,
    starting from the prior and the given proposals, and defensively mixed with both. The adapted
    mixture is then fixed and drawn from afresh, so that the final estimates, the evidence among
    them, are those of plain importance sampling. If the Pareto k or the effective sample size
    of these draws is bad, ensembles of walkers start from the adapted population.

    Args:
        task: A task with `log_likelihood`, or with a closed-form posterior.
        x: The observation, shape `(Dx,)`.
        proposals: Distributions over theta such as q(.|x), batch shape `(1,)` or `()`; may be
            empty.
        generator: Source of randomness.
        settings: Sizes and method.

    Raises:
        ConfigError: The task has neither a likelihood nor what `method` needs.
        ImpossibleObservationError: The likelihood is zero wherever it was looked for.
    """
    settings = settings or ReferenceSettings()
    if settings.method == "exact" or (settings.method == "auto" and task.knows("true_posterior")):
        return _exact(task, x, settings.num_samples, generator)
    target = Target(task, x)
    start: list[Proposal] = [Prior(target)]
    start += [Amortized(q, target, _device(q, generator)) for q in proposals]
    adapted = adapt(
        target, start, settings.batch, settings.max_rounds, settings.defensive, generator
    )
    if settings.method != "mcmc":
        result = _importance(target, start, adapted, settings, generator)
        if result.converged or settings.method == "importance":
            return result
        log.info(
            "importance sampling failed (ESS %.0f, Pareto k %.2f): MCMC, which takes its time "
            "where a likelihood is costly (reference.method=importance does without)",
            result.ess,
            result.diagnostic_value,
        )
    return _mcmc(target, adapted, settings, generator)


def _device(q: Distribution, generator: Generator) -> torch.device:
    with draws_from(generator):
        return q.sample().device


def _exact(task: Task, x: Tensor, num_samples: int, generator: Generator) -> PosteriorSamples:
    known = task.knows("true_posterior")
    require(known, "reference.method", "exact", f"another one: {task.name} has no closed form")
    p = task.true_posterior(x.cpu().unsqueeze(0))
    with draws_from(generator):
        theta = p.sample((num_samples,))
    return PosteriorSamples(
        samples=theta.squeeze(1),
        theta=theta.squeeze(1),
        weights=torch.full((num_samples,), 1 / num_samples, dtype=torch.float64),
        log_prob=p.log_prob(theta).squeeze(1).double(),
        log_evidence=0.0,
        method="exact",
        ess=float(num_samples),
        diagnostic="",
        diagnostic_value=math.nan,
        converged=True,
        evaluations=0,
    )


def _importance(
    target: Target,
    start: Sequence[Proposal],
    adapted: Adapted,
    settings: ReferenceSettings,
    generator: Generator,
) -> PosteriorSamples:
    population = Population(target, [*start, adapted.mixture])
    fractions = [settings.defensive / len(start)] * len(start)
    size = min(settings.batch, settings.max_evaluations)
    counts = shares(size, [*fractions, 1 - settings.defensive])
    ess, k = 0.0, math.inf
    while ess < settings.num_samples or k > MAX_PARETO_K:
        if len(population.z) + size > settings.max_evaluations:
            break
        population.draw(counts, generator)
        ess, k = effective_size(population.log_weights), pareto_k(population.log_weights)
    return _result(
        target,
        population.z,
        population.log_target,
        population.log_weights,
        population.log_evidence,
        settings.num_samples,
        generator,
        verdict=("importance", ess, "pareto_k", k),
        converged=ess >= min(settings.num_samples, 400) and k <= MAX_PARETO_K,
    )


def _mcmc(
    target: Target, adapted: Adapted, settings: ReferenceSettings, generator: Generator
) -> PosteriorSamples:
    from robust_npe.reference.mcmc import bridge_evidence, run_chains  # slow to import

    chains = run_chains(target, adapted.z, settings.walkers, settings.steps, generator)
    evidence = bridge_evidence(target, chains, settings.max_evaluations, generator)
    return _result(
        target,
        chains.z,
        chains.log_target,
        torch.zeros(len(chains.z), dtype=torch.float64),
        evidence,
        settings.num_samples,
        generator,
        verdict=("mcmc", chains.ess, "rhat", chains.rhat),
        converged=chains.ess >= min(settings.num_samples, 400) and chains.rhat <= MAX_RHAT,
    )


def _result(
    target: Target,
    z: Tensor,
    log_target: Tensor,
    log_weights: Tensor,
    log_evidence: float,
    num_samples: int,
    generator: Generator,
    verdict: tuple[str, float, str, float],
    converged: bool,
) -> PosteriorSamples:
    method, ess, diagnostic, value = verdict
    theta, log_det, _ = target.to_theta(z)
    index = resample(log_weights, num_samples, generator)
    return PosteriorSamples(
        samples=theta[index].float(),
        theta=theta.float(),
        weights=torch.softmax(log_weights, 0),
        log_prob=log_target - log_det - log_evidence,
        log_evidence=log_evidence,
        method=method,
        ess=ess,
        diagnostic=diagnostic,
        diagnostic_value=value,
        converged=converged,
        evaluations=target.evaluations,
    )
