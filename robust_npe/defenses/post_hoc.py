"""Defenses that leave training as it is, and change what is done with the trained networks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Generator, Tensor
from typing_extensions import override

from robust_npe.defenses.base import Batch, Defense
from robust_npe.estimators import Estimator
from robust_npe.posterior import Posterior
from robust_npe.tasks.base import Task

__all__ = ["PostHoc"]


class PostHoc(Defense):
    """Makes another posterior from networks that were trained with a base defense.

    Several of them share stored networks: only the base belongs to the identity of a network.

    Args:
        base: What the networks are trained with; may be post hoc itself.

    Attributes:
        copies: How many posteriors of the base one of these is made from.
    """

    copies: int = 1

    def __init__(self, base: Defense) -> None:
        self.base = base
        self.beta = base.beta
        self.epsilon = base.epsilon

    @property
    def num_members(self) -> int:  # type: ignore[override]
        """Number of trained networks that are needed."""
        return self.copies * self.base.num_members

    @override
    def deploy(self, members: Sequence[Estimator], task: Task) -> Posterior:
        size = self.base.num_members
        parts = [members[i : i + size] for i in range(0, len(members), size)]
        return self.combine([self.base.deploy(part, task) for part in parts], task)

    @abstractmethod
    def combine(self, posteriors: Sequence[Posterior], task: Task) -> Posterior:
        """Return the posterior made from `copies` posteriors of the base."""

    @override
    def check(self, task: Task) -> None:
        self.base.check(task)

    @override
    def prepare(self, estimator: Estimator) -> Estimator:
        return self.base.prepare(estimator)

    def setup(self, estimator: Estimator, theta: Tensor, x: Tensor) -> None:
        """As the base, and so are all methods about training."""
        self.base.setup(estimator, theta, x)

    @override
    def loss(self, estimator: Estimator, batch: Batch, generator: Generator) -> Tensor:
        return self.base.loss(estimator, batch, generator)

    @override
    def validation_loss(self, estimator: Estimator, batch: Batch, generator: Generator) -> Tensor:
        return self.base.validation_loss(estimator, batch, generator)

    @override
    def constrain(self, estimator: Estimator) -> None:
        self.base.constrain(estimator)

    @override
    def facts(self) -> dict[str, Any]:
        return self.base.facts()

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.base.state_dict()

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.base.load_state_dict(state)
