"""What a defense is, and the baseline: none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from torch import Generator, Tensor
from typing_extensions import override

from robust_npe.checks import require
from robust_npe.components import Component
from robust_npe.estimators import Estimator
from robust_npe.posterior import Posterior
from robust_npe.tasks.base import Task

__all__ = ["Batch", "Defense", "NoDefense", "member_seed"]

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Simulated pairs.

    Attributes:
        theta: Parameters of shape `(B, D)`.
        x: Observations simulated from them, shape `(B, Dx)`.
        index: Positions of the pairs in the training data, shape `(B,)`; None for pairs that
            nothing is to be remembered about, e.g. for validation.
        epoch: Number of times that the training data were seen before.
    """

    theta: Tensor
    x: Tensor
    index: Tensor | None = None
    epoch: int = 0


class Defense(Component, ABC):
    """A training objective for amortized posteriors. May keep state, such as moving averages."""

    name: str
    version: ClassVar[int] = 1
    beta: float | None = None
    epsilon: float | None = None
    num_members: int = 1

    def deploy(self, members: Sequence[Estimator], task: Task) -> Posterior:
        """Return the posterior that is used after training: the network itself, except for post-hoc
        defenses.

        Args:
            members: `num_members` networks, trained with different seeds, see `member_seed`.
            task: What they were trained for.
        """
        return members[0]

    def check(self, task: Task) -> None:
        """Raise a `ConfigError` where the task lacks what is needed; called before any work."""
        expected = f"one that needs no theta: task={task.name} has observations alone"
        require(task.has_theta or not self.needs_theta, "defense", self.name, expected)

    def prepare(self, estimator: Estimator) -> Estimator:
        """Return a fresh estimator with what is to be stored beside its weights."""
        return estimator

    def setup(self, estimator: Estimator, theta: Tensor, x: Tensor) -> None:
        """Called once before training; fixes what depends on data or network, and forgets the rest.

        Args:
            estimator: What will be trained, standardisation included.
            theta: Training data of shape `(N, D)`.
            x: Training data of shape `(N, Dx)`.
        """
        return

    @abstractmethod
    def loss(self, estimator: Estimator, batch: Batch, generator: Generator) -> Tensor:
        """Return the scalar whose gradient is followed: `estimator.loss` and what it takes beyond.

        Args:
            estimator: What is trained.
            batch: Training pairs.
            generator: Source of randomness.
        """

    def validation_loss(self, estimator: Estimator, batch: Batch, generator: Generator) -> Tensor:
        """Return the objective on validation data, a scalar, without changing any state."""
        return self.loss(estimator, batch, generator)

    def constrain(self, estimator: Estimator) -> None:
        """Called after each optimizer step, without graph: where weights must stay in some set."""
        return

    def facts(self) -> dict[str, Any]:
        """Return the settings that `setup` found, for the record: plain values."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what changes during training, so that another process can go on from there.

        Dictionaries of tensors and plain values, whose keys, shapes and types are those right
        after `setup`; tensors are not copied.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, after a `setup` with the same data."""
        return


def member_seed(seed: int, member: int) -> int:
    """Return the seed of a member's weights and training: that of the first one, or one that no
    sweep over seeds uses."""
    return seed + 10**6 * member


def ready(value: T | None) -> T:
    """Return what `setup` leaves behind.

    Raises:
        RuntimeError: `setup` was not called.
    """
    if value is None:
        raise RuntimeError("call setup(estimator, theta, x) with the training data first.")
    return value


class NoDefense(Defense):
    """Plain neural posterior estimation."""

    name = "none"

    @override
    def loss(self, estimator: Estimator, batch: Batch, generator: Generator) -> Tensor:
        return estimator.loss(batch.theta, batch.x)
