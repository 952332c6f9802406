"""Regularisation by the Fisher information of q(theta|x) with respect to x."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from robust_npe.checks import require
from robust_npe.defenses.base import Defense, negative_log_likelihood
from robust_npe.estimators import Estimator
from robust_npe.fisher import fisher_trace

__all__ = ["FIM", "GradientAverage", "with_gradient"]


class GradientAverage:
    """Bias-corrected exponential moving average of a list of gradients.

    m <- (1 - weight) m + weight g, divided by 1 - (1 - weight)^t after t updates.

    Args:
        weight: Weight of the newest gradient, in (0, 1].
    """

    def __init__(self, weight: float) -> None:
        require(0 < weight <= 1, "defense.weight", weight, "in (0, 1]")
        self.weight = weight
        self.reset()

    def reset(self) -> None:
        """Forget all gradients."""
        self._sum: list[Tensor] = []
        self._updates = 0

    @torch.no_grad()
    def update(self, gradients: Sequence[Tensor]) -> None:
        """Take in a new gradient."""
        if not self._sum:
            self._sum = [torch.zeros_like(g) for g in gradients]
        for m, g in zip(self._sum, gradients, strict=True):
            m.lerp_(g, self.weight)
        self._updates += 1

    @property
    def value(self) -> list[Tensor]:
        """The average so far."""
        correction = 1 - (1 - self.weight) ** self._updates
        return [m / correction for m in self._sum]


def with_gradient(
    value: Tensor, parameters: Sequence[Tensor], gradients: Sequence[Tensor]
) -> Tensor:
    """Return a scalar equal to `value` whose gradient with respect to `parameters` is as given."""
    inner = torch.stack([(p * g).sum() for p, g in zip(parameters, gradients, strict=True)]).sum()
    return value.detach() + inner - inner.detach()


class FIM(Defense):
    r"""Mean of -log q(theta|x) + beta tr I_x.

    The gradient of the penalty is the exact one of a Monte-Carlo estimate of the trace (samples
    of theta are reparameterised, not detached), averaged over steps with an exponential moving
    average. The published setting is `num_samples=5, rows=null, every=1, weight=0.85`. The
    default takes fewer samples of the penalty and averages over more steps, at a fraction of the
    cost.

    References:
        Gloeckler, Deistler & Macke (2023), "Adversarial robustness of amortized Bayesian
        inference", https://arxiv.org/abs/2305.14984

    Args:
        beta: Weight of the penalty, not negative, in units of x squared.
        num_samples: Samples of theta per observation.
        rows: Observations of the batch that the penalty is computed on; None for all.
        every: The penalty's gradient is renewed every so many steps and held in between.
        weight: Weight of the newest gradient in the moving average, in (0, 1].
        max_norm: Norm at which each new gradient of the penalty is clipped; None for no limit.
    """

    name = "fim"
    beta: float

    def __init__(
        self,
        beta: float = 0.01,
        num_samples: int = 1,
        rows: int | None = 128,
        every: int = 2,
        weight: float = 0.15,
        max_norm: float | None = None,
    ) -> None:
        require(beta >= 0, "beta", beta, "a number that is not negative")
        require(num_samples > 0, "defense.num_samples", num_samples, "a positive integer")
        require(rows is None or rows > 0, "defense.rows", rows, "a positive integer or null")
        require(every > 0, "defense.every", every, "a positive integer")
        require(max_norm is None or max_norm > 0, "defense.max_norm", max_norm, "positive or null")
        self.beta = beta
        self.num_samples = num_samples
        self.rows = rows
        self.every = every
        self.max_norm = math.inf if max_norm is None else max_norm
        self.average = GradientAverage(weight)
        self._step = 0
        self._last_penalty = torch.zeros(())

    def setup(self, theta: Tensor, x: Tensor) -> None:
        """Forget the averages of an earlier training."""
        self.average.reset()
        self._step = 0

    def loss(self, estimator: Estimator, theta: Tensor, x: Tensor, generator: Generator) -> Tensor:
        """See `Defense.loss`; its gradient contains the averaged gradient of the penalty."""
        parameters = [p for p in estimator.parameters() if p.requires_grad]
        if self._step % self.every == 0:
            self._renew(estimator, parameters, x, generator)
        self._step += 1
        penalty = with_gradient(self._last_penalty, parameters, self.average.value)
        return negative_log_likelihood(estimator, theta, x) + self.beta * penalty

    def _renew(
        self, estimator: Estimator, parameters: list[Tensor], x: Tensor, generator: Generator
    ) -> None:
        # batches come shuffled, so the first rows are a random sub-batch
        penalty = fisher_trace(estimator, x[: self.rows], self.num_samples, generator).mean()
        gradients = torch.autograd.grad(penalty, parameters, materialize_grads=True)
        norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))
        shrink = (self.max_norm / norm).clamp(max=1.0)
        self.average.update([g * shrink for g in gradients])
        self._last_penalty = penalty.detach()

    def validation_loss(
        self, estimator: Estimator, theta: Tensor, x: Tensor, generator: Generator
    ) -> Tensor:
        """See `Defense.validation_loss`."""
        penalty = fisher_trace(estimator, x, self.num_samples, generator, attached=False).mean()
        return negative_log_likelihood(estimator, theta, x) + self.beta * penalty
