"""What a metric is: a function of a context that returns measurements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from robust_npe.attacks import Attack, Ball, Found
from robust_npe.components import Component
from robust_npe.metrics.summary import present, quantiles, row, summary_rows
from robust_npe.posterior import Posterior, posterior_at
from robust_npe.random import stream
from robust_npe.tasks.base import Task

__all__ = [
    "Context",
    "Measurement",
    "Metric",
    "batched",
    "estimate_measurements",
    "kl_measurements",
    "quantiles",
    "summary_rows",
]

NO_OVERLAP = 30.0  # nats
T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    """What a metric may look at.

    Attributes:
        task: The task.
        posterior: The amortized posterior, of any kind.
        theta: Parameters that generated x, shape `(B, D)`, or `(B,)` for an event shape `()`.
        x: Clean observations, shape `(B, Dx)`.
        x_adv: Perturbed observations, shape `(B, Dx)`; x itself on clean data.
        attacked: Whether x_adv comes from an attack.
        seed: Seed of the run.
        batch_size: Observations that are processed at once.
        attack: The attack of the run, and
        ball: what it may do: the ball of a radius in the run's unit, or of one radius for each
            row. None where the context comes from elsewhere, and so are the next two.
        epsilon: Radius of the attack that found x_adv.
        found: What it found, beside x_adv.
        kept: What metrics keep for other radii, see `once`.
    """

    task: Task
    posterior: Posterior
    theta: Tensor
    x: Tensor
    x_adv: Tensor
    attacked: bool
    seed: int
    batch_size: int = 512
    attack: Attack | None = None
    ball: Callable[[float | Tensor], Ball] | None = None
    epsilon: float | None = None
    found: Found | None = None
    kept: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def q(self, x: Tensor) -> Distribution:
        """Return the amortized posterior at `x (B, Dx)`, see `posterior_at`."""
        return posterior_at(self.posterior, x)

    def generator(self, purpose: str) -> Generator:
        """Return the random stream of a purpose; equal for all attacks (common numbers)."""
        return stream(self.seed, "metric", purpose)

    def once(self, key: str, make: Callable[[], T], of: Tensor | None = None) -> T:
        """Return what was made under this key before, for the same posterior, x and seed, else
        make and keep it: for what is the same at every radius.

        Args:
            key: What it is.
            make: Makes it.
            of: What it is made from, if that is not all of x.
        """
        now = self.x if of is None else of
        posterior, x, seed, value = self.kept.get(key, (None, None, None, None))
        if posterior is self.posterior and seed == self.seed and torch.equal(x, now):
            return value
        value = make()
        self.kept[key] = self.posterior, now, self.seed, value
        return value


@dataclass(frozen=True)
class Measurement:
    """One measured quantity.

    Attributes:
        metric: Name of the quantity.
        rows: Tidy rows with keys `statistic`, `level` and `value`.
        per_observation: Values of shape `(B,)`, where the quantity has one per observation.
    """

    metric: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    per_observation: Tensor | None = None


class Metric(Component, ABC):
    """Something to measure on clean or perturbed observations."""

    version = 2  # infinite values are ordered, missing ones counted, and KLs have standard errors

    @abstractmethod
    def __call__(self, context: Context) -> list[Measurement]:
        """Return measurements; an empty list where the metric does not apply to the context. It is
        not called where it `needs_theta` and the task has none."""

    def missing(self, task: Task, estimator: Posterior, defense: str) -> str:
        """Return what the metric needs and a run will not have, as far as that can be told before:
        words that complete "it needs". Empty for a metric that applies.

        Args:
            task: The task.
            estimator: What will be trained, on the CPU.
            defense: Name of the defense.
        """
        return ""


def batched(context: Context, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Apply a function of `(theta, x, x_adv)` batch by batch and concatenate, without graph."""

    def parts() -> Iterator[Tensor]:
        size = context.batch_size
        triples = (context.theta.split(size), context.x.split(size), context.x_adv.split(size))
        for theta, x, x_adv in zip(*triples, strict=True):
            yield function(theta, x, x_adv)

    with torch.no_grad():
        return torch.cat(list(parts()))


def estimate_measurements(context: Context, estimates: Mapping[str, Tensor]) -> list[Measurement]:
    """Report Monte-Carlo estimates with their standard errors.

    Beside the rows of `summary_rows` there is `median_se`: how uncertain the errors of the single
    estimates make the median over these observations (other observations are another matter).
    That is the spread of the median over 200 repetitions with fresh errors added to the estimates;
    about right where observations differ by more than their errors, 15 % too large where they do
    not. A median within two of them cannot be told from zero.

    Args:
        context: What is measured.
        estimates: Estimate and standard error for each observation, `(B, 2)`, by the name of the
            metric; the errors are measured as `<name>_se`.
    """
    measurements = []
    for name, pairs in estimates.items():
        values, errors = pairs.unbind(-1)
        value, error = present(values, pairs.double()).cpu().unbind(-1)
        generator = context.generator(f"{name}_se")
        noise = torch.randn((200, len(value)), generator=generator, dtype=value.dtype)
        repeated = value + noise * torch.where(value == torch.inf, 0.0, error)
        spread = float(quantiles(repeated, [0.5]).std())
        rows = [*summary_rows(values), row("median_se", spread)]
        measurements += [Measurement(name, rows, values), Measurement(f"{name}_se", [], errors)]
    return measurements


def kl_measurements(context: Context, estimates: Mapping[str, Tensor]) -> list[Measurement]:
    """Report KL divergences as `estimate_measurements`, with one more row: `no_overlap`, the share
    of observations above 30 nats. No sample of one side is near the other there, and the number
    says how fast the tails of the family fall, rather than how far the posterior moved."""
    measurements = estimate_measurements(context, estimates)
    for measurement in measurements:
        if measurement.rows and measurement.per_observation is not None:
            values = present(measurement.per_observation, measurement.per_observation.double())
            share = torch.where(values.isnan(), torch.nan, (values > NO_OVERLAP).double()).mean()
            measurement.rows.append(row("no_overlap", float(share)))
    return measurements
