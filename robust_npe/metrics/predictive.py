"""Posterior predictive distance: do simulations from the posterior look like the observation?"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from robust_npe.checks import require_positive_integer
from robust_npe.metrics.base import Context, Measurement, Metric, summary_rows
from robust_npe.posterior import Posterior, as_vectors
from robust_npe.random import draws_from
from robust_npe.tasks.base import Task

__all__ = ["Predictive"]


class Predictive(Metric):
    """Median L2 distance between an observation and simulations from q(.|x~).

    - `predictive`: distance to x~, what the estimator was given;
    - `predictive_clean` (attacked data): distance of the same simulations to the clean x.

    In units of the expected L2 norm of the observation noise where the task knows it, else in
    units of x. For a perfect posterior it is about sqrt(2) noise norms or a little more: both
    sides are noisy. Simulations that failed (not finite) are left out; an observation more than
    half of whose simulations failed gives NaN.

    Args:
        num_observations: Observations that are looked at, from the first.
        num_samples: Simulations for each.
    """

    name = "predictive"

    def __init__(self, num_observations: int = 100, num_samples: int = 50) -> None:
        name = "metrics.predictive"
        require_positive_integer(f"{name}.num_observations", num_observations)
        require_positive_integer(f"{name}.num_samples", num_samples)
        self.num_observations = num_observations
        self.num_samples = num_samples

    @override
    def missing(self, task: Task, estimator: Posterior, defense: str) -> str:
        return "" if task.knows("simulate") else "a task with a simulator"

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        if not context.task.knows("simulate"):
            return []
        count = self.num_observations
        x, x_adv = context.x[:count], context.x_adv[:count]
        simulated = self._simulate(context, x_adv)
        values = {"predictive": self._distance(context, simulated, x_adv)}
        if context.attacked:
            values["predictive_clean"] = self._distance(context, simulated, x)
        return [Measurement(name, summary_rows(v), v) for name, v in values.items()]

    def _simulate(self, context: Context, x_adv: Tensor) -> Tensor:
        """Simulate from q(.|x~): shape `(num_samples, B, Dx)`."""
        generator = context.generator("predictive")
        with draws_from(generator), torch.no_grad():
            q = context.q(x_adv)
            theta = as_vectors(q, q.sample((self.num_samples,))).cpu()
        x = context.task.simulate(theta.flatten(0, 1), generator)
        return x.unflatten(0, theta.shape[:2])

    def _distance(self, context: Context, simulated: Tensor, x: Tensor) -> Tensor:
        distance = (simulated.double() - x.cpu().double()).norm(dim=-1)
        # an infinite simulation failed as much as a missing one
        distance = distance.masked_fill(~distance.isfinite(), torch.nan)
        median = distance.nanmedian(0).values / (context.task.noise_norm or 1.0)
        return median.masked_fill(2 * distance.isnan().sum(0) > len(distance), torch.nan)
