"""Defenses that add a penalty whose gradient is costly, and therefore computed rarely."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from typing_extensions import override

from robust_npe.checks import (
    require,
    require_not_negative,
    require_positive,
    require_positive_integer,
)
from robust_npe.defenses.base import Batch, Defense, ready
from robust_npe.estimators import Estimator
from robust_npe.estimators.interfaces import ScoreMethod
from robust_npe.states import numbered, take_over

__all__ = ["GradientAverage", "Penalized", "PenaltyGradient", "norm_of", "with_gradient"]

NORM_WEIGHT = 0.1  # of the newest norm in the mean of the last ones
VALIDATION_ROWS = 256  # enough to choose an epoch, where training uses a part of the batch


@dataclass(frozen=True)
class PenaltyGradient:
    """How often, and from how much data, the gradient of a penalty is computed.

    Attributes:
        num_samples: Samples of theta per observation.
        rows: Observations of the batch that are used; None for all.
        every: The gradient is renewed every so many steps and held in between.
        weight: Weight of the newest gradient in the moving average, in (0, 1].
        limit: A new gradient is clipped to so many times the mean norm of the last ones, and one
            that is not finite is left out; None for neither. A single sample may have a penalty
            millions of times as large as usual, and steps along its gradient lead to where that
            of all is larger still, until training diverges. A small limit takes away what heavy
            tails contribute to the mean, and the penalty grows where they are most of it.
    """

    num_samples: int
    rows: int | None
    every: int
    weight: float
    limit: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        require_positive_integer("defense.num_samples", self.num_samples)
        require_positive_integer("defense.rows", self.rows, or_null=True)
        require_positive_integer("defense.every", self.every)
        require(0 < self.weight <= 1, "defense.weight", self.weight, "in (0, 1]")


class GradientAverage:
    """Bias-corrected exponential moving average of a list of gradients.

    m <- (1 - weight) m + weight g, divided by 1 - (1 - weight)^t after t updates.

    Args:
        weight: Weight of the newest gradient, in (0, 1].
        parameters: What the gradients belong to.

    Attributes:
        value: The average so far.
    """

    def __init__(self, weight: float, parameters: Sequence[Tensor]) -> None:
        self.weight = weight
        self._sum = [torch.zeros_like(p) for p in parameters]
        self._updates = 0
        self.value = self._sum

    @torch.no_grad()
    def update(self, gradients: Sequence[Tensor]) -> None:
        """Take in a new gradient."""
        torch._foreach_lerp_(self._sum, list(gradients), self.weight)
        self._updates += 1
        self._correct()

    def _correct(self) -> None:
        if self._updates:
            correction = 1 - (1 - self.weight) ** self._updates
            self.value = list(torch._foreach_div(self._sum, correction))

    def state_dict(self) -> dict[str, Any]:
        """Return the sums, not copied, and the number of updates."""
        return {"sum": numbered(self._sum), "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        take_over(self._sum, state["sum"])
        self._updates = state["updates"]
        self._correct()


def norm_of(gradients: Sequence[Tensor]) -> float:
    """Return the Euclidean norm of a list of gradients as one vector."""
    return float(torch.stack(torch._foreach_norm(list(gradients))).norm())


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

    Subclasses say in `gradients` what `fast` and `exact` mean, and in `variants` where they mean
    something else for estimators whose scores are not wholly compiled.

    Args:
        beta: Weight of the penalty, not negative, in units of x squared.
        gradient: `exact` or `fast`.
        num_samples: Overrides what `gradient` stands for, as do the next three; see
            `PenaltyGradient`.
        rows: See `PenaltyGradient`.
        every: See `PenaltyGradient`.
        weight: See `PenaltyGradient`.
        max_norm: Norm at which each new gradient of the penalty is clipped; None for no limit.
    """

    beta: float
    gradients: ClassVar[dict[str, PenaltyGradient]]
    variants: ClassVar[dict[tuple[str, ScoreMethod], PenaltyGradient]] = {}
    constants: ClassVar[Sequence[str]] = ("gradients", "variants")

    def __init__(
        self,
        beta: float = 0.01,
        gradient: Literal["fast", "exact"] = "fast",
        num_samples: int | None = None,
        rows: int | None = None,
        every: int | None = None,
        weight: float | None = None,
        max_norm: float | None = None,
    ) -> None:
        require_not_negative("beta", beta)
        known = " or ".join(self.gradients)
        require(gradient in self.gradients, "defense.gradient", gradient, known)
        require_positive("defense.max_norm", max_norm, or_null=True)
        self.beta = beta
        self.gradient = gradient
        self.num_samples = num_samples
        self.rows = rows
        self.every = every
        self.weight = weight
        self.max_norm = max_norm
        self._settings: PenaltyGradient | None = None
        self._resolve("compiled")  # checks the ranges

    def _resolve(self, method: ScoreMethod) -> PenaltyGradient:
        chosen = self.variants.get((self.gradient, method), self.gradients[self.gradient])
        names = ("num_samples", "rows", "every", "weight")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return replace(chosen, **given)

    @property
    def settings(self) -> PenaltyGradient:
        """How the gradient is computed, after `setup`."""
        return ready(self._settings)

    @override
    def setup(self, estimator: Estimator, theta: Tensor, x: Tensor) -> None:
        self._settings = self._resolve(estimator.score_method)
        self._average = GradientAverage(self._settings.weight, _trainable(estimator))
        self._step = 0
        self._last_penalty = x.new_zeros(())
        self._mean_norm = 0.0  # of none yet

    def facts(self) -> dict[str, Any]:
        """Return how the gradient of the penalty is computed."""
        return asdict(self.settings)

    @abstractmethod
    def penalty(
        self, estimator: Estimator, x: Tensor, generator: Generator, attached: bool
    ) -> Tensor:
        """Return estimates of the penalty at `x (B, Dx)`, shape `(B,)`."""

    def loss(self, estimator: Estimator, batch: Batch, generator: Generator) -> Tensor:
        """See `Defense.loss`; its gradient contains the averaged gradient of the penalty."""
        if self.beta == 0:
            return estimator.loss(batch.theta, batch.x)
        settings = self.settings
        part = batch.x[: settings.rows]  # batches come shuffled, so this is a random sub-batch
        is_plain = settings.every == settings.weight == 1 and settings.limit is None
        if is_plain and self.max_norm is None:
            penalty = self.penalty(estimator, part, generator, attached=True).mean()
        else:
            if self._step % settings.every == 0:
                self._renew(estimator, part, generator)
            self._step += 1
            penalty = with_gradient(self._last_penalty, _trainable(estimator), self._average.value)
        return estimator.loss(batch.theta, batch.x) + self.beta * penalty

    def _renew(self, estimator: Estimator, x: Tensor, generator: Generator) -> None:
        penalty = self.penalty(estimator, x, generator, attached=True).mean()
        parameters = _trainable(estimator)
        gradients = torch.autograd.grad(penalty, parameters, materialize_grads=True)
        clipped = self._clipped(gradients)
        if clipped is not None:
            self._average.update(clipped)
            self._last_penalty = penalty.detach()

    def _clipped(self, gradients: Sequence[Tensor]) -> Sequence[Tensor] | None:
        """Return gradients within the limits, None for some that are not finite."""
        limit, most = self.settings.limit, self.max_norm
        if limit is None and most is None:
            return gradients
        allowed = math.inf if most is None else most
        norm = norm_of(gradients)
        if limit is not None:
            if not math.isfinite(norm):
                return None
            last = self._mean_norm or norm
            allowed = min(allowed, limit * last)
            self._mean_norm = last + NORM_WEIGHT * (min(norm, allowed) - last)
        return torch._foreach_mul(list(gradients), allowed / norm) if norm > allowed else gradients

    def validation_loss(self, estimator: Estimator, batch: Batch, generator: Generator) -> Tensor:
        """See `Defense.validation_loss`; the penalty is that of the first observations."""
        loss = estimator.loss(batch.theta, batch.x)
        if self.beta == 0:
            return loss
        part = batch.x if self.settings.rows is None else batch.x[:VALIDATION_ROWS]
        return loss + self.beta * self.penalty(estimator, part, generator, attached=False).mean()

    def state_dict(self) -> dict[str, Any]:
        """See `Defense.state_dict`: the averaged gradient, and where in the interval it is."""
        average = self._average.state_dict()
        state = {"average": average, "step": self._step, "last_penalty": self._last_penalty}
        return {**state, "mean_norm": self._mean_norm}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._average.load_state_dict(state["average"])
        self._step = state["step"]
        self._last_penalty.copy_(state["last_penalty"])
        self._mean_norm = state["mean_norm"]


def _trainable(estimator: Estimator) -> list[Tensor]:
    return [p for p in estimator.parameters() if p.requires_grad]
