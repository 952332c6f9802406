"""How small a perturbation breaks the posterior."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor
from typing_extensions import override

from robust_npe.attacks import (
    Attack,
    CoverageBreaking,
    KLForward,
    MeanShift,
    Objective,
    minimal_radius,
)
from robust_npe.checks import require, require_positive_integer
from robust_npe.metrics.base import Context, Measurement, Metric, summary_rows
from robust_npe.metrics.summary import row
from robust_npe.random import draws_from

__all__ = ["MinimalRadius", "smallest_radii", "warn_unless_climbed"]

log = logging.getLogger(__name__)

CRITERIA: dict[str, tuple[type[Objective], float]] = {
    "kl_forward": (KLForward, 1.0),
    "mean_shift": (MeanShift, 1.0),
    "coverage": (CoverageBreaking, 0.9),
}
"""What is measured, and the value above which a posterior counts as broken by default."""

NUM_RADII = 50
SMALLEST = 5e-3  # of the curve's radii, as a fraction of the largest


class MinimalRadius(Metric):
    """Smallest radius at which the run's attack breaks the posterior, see `minimal_radius`.

    `minimal_radius_<criterion>` in `epsilon_unit`, inf where nothing up to `largest` breaks it;
    beside the summary, `broken` at a radius (`level`) is the share of observations that are broken
    at it, and `threshold` what counted as broken. Measured once, with the clean observations.

    Args:
        criterion: `kl_forward`: KL(q(.|x) || q(.|x~)), nats; `mean_shift`: shift of the posterior
            mean, in posterior standard deviations; `coverage`: level of the smallest
            highest-density region that contains the true parameters. As the objectives of these
            names, but with random numbers of its own.
        threshold: Value above which the posterior counts as broken; None for 1, 1 and 0.9.
        largest: Largest radius to look at, in `epsilon_unit`.
        num_observations: Observations that are attacked, from the first.
        searches: Attacks on each observation, at most.
        num_samples: Samples behind the criterion.
    """

    name = "minimal_radius"

    def __init__(
        self,
        criterion: Literal["kl_forward", "mean_shift", "coverage"] = "kl_forward",
        threshold: float | None = None,
        largest: float = 2.0,
        num_observations: int = 128,
        searches: int = 10,
        num_samples: int = 1000,
    ) -> None:
        name = "metrics.minimal_radius"
        require(criterion in CRITERIA, f"{name}.criterion", criterion, f"one of {[*CRITERIA]}")
        most = 1.0 if criterion == "coverage" else torch.inf
        valid = threshold is None or 0 < threshold < most
        expected = "a level below 1" if criterion == "coverage" else "a positive number"
        require(valid, f"{name}.threshold", threshold, expected)
        require(0 < largest < torch.inf, f"{name}.largest", largest, "a positive number")
        require_positive_integer(f"{name}.num_observations", num_observations)
        require_positive_integer(f"{name}.searches", searches)
        require(num_samples > 3, f"{name}.num_samples", num_samples, "at least 4")
        self.criterion = criterion
        self.needs_theta = CRITERIA[criterion][0].needs_theta
        self.threshold = threshold
        self.largest = largest
        self.num_observations = num_observations
        self.searches = searches
        self.num_samples = num_samples

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        if context.attacked or context.attack is None or context.ball is None:
            return []
        warn_unless_climbed(context.attack, self.criterion, self.name)
        criterion, default = CRITERIA[self.criterion]
        threshold = default if self.threshold is None else self.threshold
        sizes = self.largest, self.num_observations, self.searches, self.num_samples
        generator = context.generator("minimal radius")
        radii = smallest_radii(context, criterion(), threshold, *sizes, generator)
        rows = [*summary_rows(radii), row("threshold", threshold)]
        for level in np.geomspace(SMALLEST, 1, NUM_RADII) * self.largest:
            rows.append(row("broken", float((radii <= level).double().mean()), float(level)))
        return [Measurement(f"minimal_radius_{self.criterion}", rows, radii)]


def warn_unless_climbed(attack: Attack, objective: str, metric: str) -> None:
    """Warn that radii are those of an attack with another objective."""
    climbed = getattr(getattr(attack, "objective", None), "name", "nothing")
    if climbed != objective:
        text = "%s: the attack climbs %s, not %s: radii may be far too large"
        log.warning(text, metric, climbed, objective)


def smallest_radii(
    context: Context,
    criterion: Objective,
    threshold: float,
    largest: float,
    num_observations: int,
    searches: int,
    num_samples: int,
    generator: Generator,
) -> Tensor:
    """Return the smallest radii at which the context's attack brings a criterion above a threshold,
    in `epsilon_unit`, `(num_observations,)`; arguments as for `minimal_radius`."""
    assert context.attack is not None
    assert context.ball is not None
    attack, posterior, ball = context.attack, context.posterior, context.ball
    size = context.batch_size
    theta, x = (v[:num_observations].split(size) for v in (context.theta, context.x))
    last = criterion, threshold, largest, generator, searches
    with draws_from(generator):
        return torch.cat(
            [
                minimal_radius(attack, posterior, b, t, ball, *last, num_samples=num_samples).radius
                for t, b in zip(theta, x, strict=True)
            ]
        )
