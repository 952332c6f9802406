"""Comparisons with the true posterior, computed from prior and likelihood."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributions import Distribution
from tqdm import tqdm
from typing_extensions import override

from robust_npe.checks import require, require_positive_integer
from robust_npe.metrics.base import Context, Measurement, Metric, summary_rows
from robust_npe.metrics.mmd import mmd
from robust_npe.metrics.two_sample import c2st
from robust_npe.posterior import Posterior, as_events, as_vectors, log_prob
from robust_npe.random import draws_from, stream
from robust_npe.reference import (
    ImpossibleObservationError,
    PosteriorSamples,
    ReferenceSettings,
    Target,
    reference_posterior,
)
from robust_npe.tasks.base import Task

__all__ = ["ReferencePosterior"]

MMD_SAMPLES = 1000  # its kernel matrix grows with the square


class ReferencePosterior(Metric):
    """The three numbers of a robustness report where there is no closed form.

    For the first observations, clean or attacked, p(.|x~) is computed from prior and likelihood:

    - `reference_error` = KL(p(.|x~) || q(.|x~)). The log density of p is normalised by the
      evidence that the importance weights (or bridge sampling of the chains) estimate, so the
      divergence is absolute;
    - `reference_movement` = KL(p(.|x) || p(.|x~)), on attacked data: movement that is right;
    - `reference_mmd`, `reference_c2st`: between samples of p(.|x~) and q(.|x~);
    - `reference_ess`: effective number of samples behind them.

    Where the computation did not converge, or the observation is impossible under the task, the
    value is NaN, which `nonfinite_fraction` counts. Applies to tasks with a likelihood.

    Args:
        num_observations: Observations that are looked at, from the first.
        num_samples: Samples of each posterior, at least 10.
        method: See `ReferenceSettings`.
        c2st: Whether to train the classifiers, too.
        max_evaluations: See `ReferenceSettings`.
    """

    name = "reference"

    def __init__(
        self,
        num_observations: int = 10,
        num_samples: int = 1000,
        method: str = "auto",
        c2st: bool = True,
        max_evaluations: int = 200_000,
    ) -> None:
        name = "metrics.reference"
        require_positive_integer(f"{name}.num_observations", num_observations)
        require(num_samples > 9, f"{name}.num_samples", num_samples, "at least 10")
        self.num_observations = num_observations
        self.c2st = c2st
        self.settings = ReferenceSettings(
            num_samples=num_samples, method=method, max_evaluations=max_evaluations
        )

    @override
    def missing(self, task: Task, estimator: Posterior, defense: str) -> str:
        known = task.knows("log_likelihood") or task.knows("true_posterior")
        return "" if known else "a task with a likelihood or a closed-form posterior"

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        if not (context.task.knows("log_likelihood") or context.task.knows("true_posterior")):
            return []
        measured = list(self._each(context))
        names = measured[0]
        columns = {name: torch.tensor([m[name] for m in measured]).double() for name in names}
        return [Measurement(name, summary_rows(v), v) for name, v in columns.items()]

    def _each(self, context: Context) -> Iterator[dict[str, float]]:
        count = min(self.num_observations, len(context.x))
        progress = tqdm(range(count), desc="true posteriors", disable=not sys.stderr.isatty())
        for i in progress:
            with torch.no_grad():
                yield self._measure(context, i)

    def _measure(self, context: Context, i: int) -> dict[str, float]:
        x, x_adv = context.x[i].cpu(), context.x_adv[i].cpu()
        q, q_adv = (context.q(v[i : i + 1]) for v in (context.x, context.x_adv))
        p = p_adv = context.once(
            f"reference {i}", lambda: self._posterior(context, x, [q], i), of=x
        )
        if context.attacked:
            p_adv = self._posterior(context, x_adv, [q_adv, q], i)
        values = {"reference_error": self._error(p_adv, q_adv, context.x.device)}
        if context.attacked:
            values["reference_movement"] = self._movement(context, p, p_adv, x_adv)
        values |= self._two_sample(context, p_adv, q_adv, i)
        values["reference_ess"] = p_adv.ess if p_adv else math.nan
        return values

    def _posterior(
        self, context: Context, x: Tensor, proposals: list[Distribution], i: int
    ) -> PosteriorSamples | None:
        generator = stream(context.seed, "metric", "reference", i)
        try:
            p = reference_posterior(context.task, x, proposals, generator, self.settings)
        except ImpossibleObservationError:
            return None
        return p if p.converged else None

    def _error(self, p: PosteriorSamples | None, q: Distribution, device: torch.device) -> float:
        if p is None:
            return math.nan
        theta = as_events(q, p.theta.to(device).unsqueeze(1), (len(p.theta),))
        log_q = log_prob(q, theta).squeeze(1).cpu()
        return p.expectation(p.log_prob - log_q.double())

    def _movement(
        self,
        context: Context,
        p: PosteriorSamples | None,
        p_adv: PosteriorSamples | None,
        x_adv: Tensor,
    ) -> float:
        if p is None or p_adv is None:
            return math.nan
        if p.method == "exact":
            moved = context.task.true_posterior(x_adv.unsqueeze(0))
            return p.expectation(p.log_prob - log_prob(moved, p.theta.unsqueeze(1)).squeeze(1))
        log_p_adv = Target(context.task, x_adv).log_joint(p.theta.double()) - p_adv.log_evidence
        return p.expectation(p.log_prob - log_p_adv)

    def _two_sample(
        self, context: Context, p: PosteriorSamples | None, q: Distribution, i: int
    ) -> dict[str, float]:
        names = ["reference_mmd", "reference_c2st"] if self.c2st else ["reference_mmd"]
        if p is None:
            return dict.fromkeys(names, math.nan)
        with draws_from(context.generator(f"reference {i}")):
            samples = as_vectors(q, q.sample((len(p.samples),))).squeeze(1).cpu()
        values = {"reference_mmd": float(mmd(p.samples[:MMD_SAMPLES], samples[:MMD_SAMPLES]))}
        if self.c2st:
            values["reference_c2st"] = c2st(p.samples, samples)
        return values
