"""What a metric is: a function of a context that returns measurements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from robust_npe.components import Component
from robust_npe.posterior import Posterior
from robust_npe.random import stream
from robust_npe.tasks.base import Task

__all__ = ["Context", "Measurement", "Metric", "batched", "summary_rows"]


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
    """

    task: Task
    posterior: Posterior
    theta: Tensor
    x: Tensor
    x_adv: Tensor
    attacked: bool
    seed: int
    batch_size: int = 512

    def generator(self, purpose: str) -> Generator:
        """Return the random stream of a purpose; equal for all attacks (common numbers)."""
        return stream(self.seed, "metric", purpose)


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

    @abstractmethod
    def __call__(self, context: Context) -> list[Measurement]:
        """Return measurements; an empty list where the metric does not apply to the context."""


def batched(context: Context, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Apply a function of `(theta, x, x_adv)` batch by batch and concatenate, without graph."""

    def parts() -> Iterator[Tensor]:
        size = context.batch_size
        triples = (context.theta.split(size), context.x.split(size), context.x_adv.split(size))
        for theta, x, x_adv in zip(*triples, strict=True):
            yield function(theta, x, x_adv)

    with torch.no_grad():
        return torch.cat(list(parts()))


def summary_rows(values: Tensor) -> list[dict[str, Any]]:
    """Summarise values `(B,)`: median, 15 and 85 % quantiles and mean over the finite ones, and
    the fraction that is not finite."""
    values = values.double()
    finite = values[values.isfinite()]
    fraction = 1 - len(finite) / len(values)
    statistics = {"median": torch.nan, "q15": torch.nan, "q85": torch.nan, "mean": torch.nan}
    if len(finite):
        q = torch.tensor([0.5, 0.15, 0.85], dtype=torch.float64, device=finite.device)
        names = ("median", "q15", "q85")
        statistics.update(zip(names, torch.quantile(finite, q).tolist(), strict=True))
        statistics["mean"] = float(finite.mean())
    statistics["nonfinite_fraction"] = fraction
    return [{"statistic": s, "level": None, "value": v} for s, v in statistics.items()]
