"""Defenses that add a penalty whose gradient is costly, and therefore computed rarely."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, get_args

import torch
from torch import Generator, Tensor

from robust_npe.checks import require
from robust_npe.defenses.base import Defense, negative_log_likelihood
from robust_npe.estimators import Estimator
from robust_npe.estimators.base import ScoreMethod

__all__ = ["GradientAverage", "Penalized", "PenaltyGradient", "with_gradient"]

VALIDATION_ROWS = 256  # enough to choose an epoch, where training uses a part of the batch


@dataclass(frozen=True)
class PenaltyGradient:
    """How often, and from how much data, the gradient of a penalty is computed.

    Attributes:
        num_samples: Samples of theta per observation.
        rows: Observations of the batch that are used; None for all.
        every: The gradient is renewed every so many steps and held in between.
        weight: Weight of the newest gradient in the moving average, in (0, 1].
    """

    num_samples: int
    rows: int | None
    every: int
    weight: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        rows = self.rows
        require(self.num_samples > 0, "defense.num_samples", self.num_samples, "positive")
        require(rows is None or rows > 0, "defense.rows", rows, "a positive integer or null")
        require(self.every > 0, "defense.every", self.every, "a positive integer")
        require(0 < self.weight <= 1, "defense.weight", self.weight, "in (0, 1]")


class GradientAverage:
    """Bias-corrected exponential moving average of a list of gradients.

    m <- (1 - weight) m + weight g, divided by 1 - (1 - weight)^t after t updates.

    Args:
        weight: Weight of the newest gradient, in (0, 1].

    Attributes:
        value: The average so far.
    """

    def __init__(self, weight: float) -> None:
        require(0 < weight <= 1, "defense.weight", weight, "in (0, 1]")
        self.weight = weight
        self.reset()

    def reset(self) -> None:
        """Forget all gradients."""
        self.value: list[Tensor] = []
        self._sum: list[Tensor] = []
        self._updates = 0

    @torch.no_grad()
    def update(self, gradients: Sequence[Tensor]) -> None:
        """Take in a new gradient."""
        if not self._sum:
            self._sum = [torch.zeros_like(g) for g in gradients]
        torch._foreach_lerp_(self._sum, list(gradients), self.weight)
        self._updates += 1
        correction = 1 - (1 - self.weight) ** self._updates
        self.value = list(torch._foreach_div(self._sum, correction))


def with_gradient(
    value: Tensor, parameters: Sequence[Tensor], gradients: Sequence[Tensor]
) -> Tensor:
    """Return a scalar equal to `value` whose gradient with respect to `parameters` is as given."""
    return _WithGradient.apply(value, gradients, *parameters)


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value: Tensor, gradients: Sequence[Tensor], *parameters: Tensor
    ) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *torch._foreach_mul(ctx.gradients, grad)


class Penalized(Defense):
    """Mean of -log q(theta|x) + beta penalty, where the penalty's gradient may be computed rarely.

    Args:
        beta: Weight of the penalty, not negative, in units of x squared.
        estimator: One of the names in `estimators`; `variants` has what the name means for
            amortized posteriors whose scores are not wholly compiled, where that is something else.
        num_samples: Overrides the estimator's, as do the next three; see `PenaltyGradient`.
        rows: See `PenaltyGradient`.
        every: See `PenaltyGradient`.
        weight: See `PenaltyGradient`.
        max_norm: Norm at which each new gradient of the penalty is clipped; None for no limit.
    """

    beta: float
    estimators: ClassVar[dict[str, PenaltyGradient]]
    variants: ClassVar[dict[tuple[str, ScoreMethod], PenaltyGradient]] = {}

    def __init__(
        self,
        beta: float = 0.01,
        estimator: str = "fast",
        num_samples: int | None = None,
        rows: int | None = None,
        every: int | None = None,
        weight: float | None = None,
        max_norm: float | None = None,
    ) -> None:
        require(beta >= 0, "beta", beta, "a number that is not negative")
        known = ", ".join(self.estimators)
        require(estimator in self.estimators, "defense.estimator", estimator, f"one of {known}")
        require(max_norm is None or max_norm > 0, "defense.max_norm", max_norm, "positive or null")
        own = {"num_samples": num_samples, "rows": rows, "every": every, "weight": weight}
        given: dict[str, Any] = {key: value for key, value in own.items() if value is not None}
        self.beta = beta
        self._settings: dict[ScoreMethod, PenaltyGradient] = {
            method: replace(
                self.variants.get((estimator, method), self.estimators[estimator]), **given
            )
            for method in get_args(ScoreMethod)
        }
        self.settings = self._settings["compiled"]
        self.max_norm = max_norm
        self.average = GradientAverage(self.settings.weight)
        self.setup(torch.empty(0), torch.empty(0))

    def setup(self, theta: Tensor, x: Tensor) -> None:
        """Forget the averages of an earlier training."""
        self.average.reset()
        self._step = 0
        self._last_penalty = torch.zeros(())

    @abstractmethod
    def penalty(
        self, estimator: Estimator, x: Tensor, generator: Generator, attached: bool
    ) -> Tensor:
        """Return estimates of the penalty at `x (B, Dx)`, shape `(B,)`."""

    def loss(self, estimator: Estimator, theta: Tensor, x: Tensor, generator: Generator) -> Tensor:
        """See `Defense.loss`; its gradient contains the averaged gradient of the penalty."""
        if self.beta == 0:
            return negative_log_likelihood(estimator, theta, x)
        self._choose(estimator)
        part = x[: self.settings.rows]  # batches come shuffled, so this is a random sub-batch
        if self.settings.every == self.settings.weight == 1 and self.max_norm is None:
            penalty = self._mean_penalty(estimator, part, generator)
            return negative_log_likelihood(estimator, theta, x) + self.beta * penalty
        parameters = [p for p in estimator.parameters() if p.requires_grad]
        if self._step % self.settings.every == 0:
            self._renew(estimator, parameters, part, generator)
        self._step += 1
        penalty = with_gradient(self._last_penalty, parameters, self.average.value)
        return negative_log_likelihood(estimator, theta, x) + self.beta * penalty

    def _choose(self, estimator: Estimator) -> None:
        self.settings = self._settings[estimator.score_method]

    def _mean_penalty(self, estimator: Estimator, x: Tensor, generator: Generator) -> Tensor:
        return self.penalty(estimator, x, generator, attached=True).mean()

    def _renew(
        self, estimator: Estimator, parameters: Sequence[Tensor], x: Tensor, generator: Generator
    ) -> None:
        penalty = self._mean_penalty(estimator, x, generator)
        gradients = torch.autograd.grad(penalty, parameters, materialize_grads=True)
        if self.max_norm is not None:
            norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))
            shrink = (self.max_norm / norm).clamp(max=1.0)
            gradients = tuple(g * shrink for g in gradients)
        self.average.update(gradients)
        self._last_penalty = penalty.detach()

    def validation_loss(
        self, estimator: Estimator, theta: Tensor, x: Tensor, generator: Generator
    ) -> Tensor:
        """See `Defense.validation_loss`; the penalty is that of the first observations."""
        loss = negative_log_likelihood(estimator, theta, x)
        if self.beta == 0:
            return loss
        self._choose(estimator)
        part = x if self.settings.rows is None else x[:VALIDATION_ROWS]
        return loss + self.beta * self.penalty(estimator, part, generator, attached=False).mean()
