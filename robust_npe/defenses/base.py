"""What a defense is, and the baseline: none."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Generator, Tensor

from robust_npe.components import Component
from robust_npe.estimators import Estimator

__all__ = ["Defense", "NoDefense", "negative_log_likelihood"]


def negative_log_likelihood(estimator: Estimator, theta: Tensor, x: Tensor) -> Tensor:
    """Loss of neural posterior estimation: the mean of -log q(theta|x), a scalar."""
    return -estimator(x).log_prob(theta).mean()


class Defense(Component, ABC):
    """A training objective for amortized posteriors. May keep state, such as moving averages."""

    name: str
    beta: float | None = None
    epsilon: float | None = None

    def setup(self, theta: Tensor, x: Tensor) -> None:
        """Called once before training with the training data `(N, D)` and `(N, Dx)`."""
        return

    def select(self, index: Tensor) -> None:
        """Called before each training batch with the positions of its pairs in the training data.

        Args:
            index: Shape `(B,)`. Only defenses that remember something about each pair need it.
        """
        return

    @abstractmethod
    def loss(self, estimator: Estimator, theta: Tensor, x: Tensor, generator: Generator) -> Tensor:
        """Return the scalar whose gradient is followed, for one batch.

        Args:
            estimator: What is trained.
            theta: Parameters of shape `(B, D)`.
            x: Observations simulated from them, shape `(B, Dx)`.
            generator: Source of randomness.
        """

    def validation_loss(
        self, estimator: Estimator, theta: Tensor, x: Tensor, generator: Generator
    ) -> Tensor:
        """Return the objective on validation data, a scalar, without changing any state."""
        return self.loss(estimator, theta, x, generator)


class NoDefense(Defense):
    """Plain neural posterior estimation."""

    name = "none"

    def loss(self, estimator: Estimator, theta: Tensor, x: Tensor, generator: Generator) -> Tensor:
        """See `Defense.loss`."""
        return negative_log_likelihood(estimator, theta, x)
