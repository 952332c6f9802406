"""Comparisons with the true posterior, where it is known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from robust_npe.checks import require_positive_integer
from robust_npe.divergences import kl_with_error, standard_error
from robust_npe.metrics.base import Context, Measurement, Metric, batched, kl_measurements
from robust_npe.posterior import Posterior, as_events, as_vectors, log_prob
from robust_npe.random import draws_from
from robust_npe.tasks.base import Task

__all__ = ["TruePosterior"]


class TruePosterior(Metric):
    """What a robustness number must be compared with: the true posterior moves, too.

    - `legitimate_movement` = KL(p(.|x) || p(.|x~)), the share of the movement that is right;
    - `error` = KL(p(.|x~) || q(.|x~)), how wrong the estimator is there (on clean data: at x).

    Together with `kl_forward` (the sensitivity of q) these are the three numbers of a robustness
    report. Applies to tasks with a closed-form posterior.

    Args:
        num_samples: Monte-Carlo samples where there is no closed form.
    """

    name = "true_posterior"
    version = 2  # small movements have a control variate

    def __init__(self, num_samples: int = 256) -> None:
        require_positive_integer("metrics.true_posterior.num_samples", num_samples)
        self.num_samples = num_samples

    @override
    def missing(self, task: Task, estimator: Posterior, defense: str) -> str:
        return "" if task.knows("true_posterior") else "a task with a closed-form posterior"

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        task, q = context.task, context.q
        if not task.knows("true_posterior"):
            return []
        generator = context.generator("true posterior")

        def moved(_: Tensor, x: Tensor, x_adv: Tensor) -> Tensor:
            p, p_adv = task.true_posterior(x.cpu()), task.true_posterior(x_adv.cpu())
            return torch.stack(kl_with_error(p, p_adv, self.num_samples, generator), dim=-1)

        def error(_: Tensor, __: Tensor, x_adv: Tensor) -> Tensor:
            p = task.true_posterior(x_adv.cpu())  # tasks live on the CPU
            with draws_from(generator):
                theta = p.sample((self.num_samples,))
            moved = q(x_adv)
            vectors = as_vectors(p, theta).to(x_adv)
            log_q = log_prob(moved, as_events(moved, vectors, (self.num_samples,))).cpu()
            terms = p.log_prob(theta) - log_q
            return torch.stack((terms.mean(0), standard_error(terms, paired=False)), dim=-1)

        estimates = {"error": batched(context, error)}
        if context.attacked:
            estimates["legitimate_movement"] = batched(context, moved)
        return kl_measurements(context, estimates)
