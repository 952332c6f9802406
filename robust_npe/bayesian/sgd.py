"""Weights that stochastic gradient descent finds: one network, several, or a Gaussian around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor
from typing_extensions import override

from robust_npe.bayesian.inference import Inference, InferenceState, Weights
from robust_npe.bayesian.moments import Trajectory
from robust_npe.bayesian.optimising import Descent, at_least, cross_entropies, momentum_sgd
from robust_npe.checks import require, require_positive, require_positive_integer, require_whole
from robust_npe.states import adam

if TYPE_CHECKING:
    from robust_npe.bayesian.network import WeightEnsemble

__all__ = ["SGD", "SWAG", "DeepEnsemble"]


class DeepEnsemble(Inference):
    """Several networks from other initial weights, trained by Adam on the cross-entropy, with a
    learning rate that falls to zero along half a cosine. They see the same minibatches.

    References:
        Lakshminarayanan, Pritzel & Blundell (2017), "Simple and scalable predictive uncertainty
        estimation using deep ensembles", https://arxiv.org/abs/1612.01474

    Args:
        members: Number of networks S.
        epochs: How often the training pairs are seen.
        batch_size: Pairs per step.
        learning_rate: Of the first step.
        min_steps: Few pairs are seen more often, until there are so many steps.
    """

    name = "ensemble"

    def __init__(
        self,
        members: int = 10,
        epochs: int = 5,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        min_steps: int = 0,
    ) -> None:
        for key, value in {"members": members, "epochs": epochs, "batch_size": batch_size}.items():
            require_positive_integer(f"inference.{key}", value)
        require_positive("inference.learning_rate", learning_rate)
        require_whole("inference.min_steps", min_steps)
        self.members = members
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.min_steps = min_steps

    @property
    @override
    def num_draws(self) -> int:
        return self.members

    @override
    def begin(
        self, network: WeightEnsemble, x: Tensor, y: Tensor, generator: Generator
    ) -> InferenceState:
        weights = network.initial(self.members, generator)
        descent = self._descent(weights, network, x, y, generator)

        def finish() -> Mapping[str, Any]:
            network.assign(weights)
            return {"train_loss": descent.train_loss}

        return InferenceState([descent], finish, generator, weights)

    def _descent(
        self, weights: Weights, network: WeightEnsemble, x: Tensor, y: Tensor, generator: Generator
    ) -> Descent:
        """Return the training of some networks, all by Adam."""
        loss = _loss(network, weights, x, y)
        optimizer = adam(weights, self.learning_rate)
        epochs = at_least(self.epochs, self.min_steps, len(x), self.batch_size)
        sizes = epochs, self.batch_size
        return Descent(loss, len(x), optimizer, *sizes, generator, members=len(weights[0]))


class SGD(DeepEnsemble):
    """One network: the deterministic classifier that Bayesian ones are compared with.

    Args:
        epochs: See `DeepEnsemble`, and so are the next three.
        batch_size: See there.
        learning_rate: See there.
        min_steps: See there.
    """

    name = "sgd"

    def __init__(
        self,
        epochs: int = 5,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        min_steps: int = 0,
    ) -> None:
        super().__init__(1, epochs, batch_size, learning_rate, min_steps)


class SWAG(DeepEnsemble):
    """Draws from a Gaussian with the mean of the weights along a trajectory of SGD, and half of
    their covariance: of its diagonal, and of its last directions (of low rank).

    After training as `SGD` does, momentum SGD with a constant learning rate goes on; its weights
    are collected several times per epoch.

    References:
        Maddox, Garipov, Izmailov, Vetrov & Wilson (2019), "A simple baseline for Bayesian
        uncertainty in deep learning", https://arxiv.org/abs/1902.02476

    Args:
        draws: Number of networks S.
        epochs: See `DeepEnsemble`, and so are the next three.
        batch_size: See there.
        learning_rate: See there.
        min_steps: See there.
        swag_epochs: Epochs of the trajectory.
        swag_learning_rate: Its constant learning rate.
        collected: Number of times that weights are collected, at least 2.
        rank: Number of the last ones whose deviations are kept, at least 2.
    """

    name = "swag"

    def __init__(
        self,
        draws: int = 25,
        epochs: int = 5,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        min_steps: int = 0,
        swag_epochs: int = 5,
        swag_learning_rate: float = 0.02,
        collected: int = 40,
        rank: int = 20,
    ) -> None:
        super().__init__(draws, epochs, batch_size, learning_rate, min_steps)
        require_positive_integer("inference.swag_epochs", swag_epochs)
        expected = "a positive number"
        require(
            swag_learning_rate > 0, "inference.swag_learning_rate", swag_learning_rate, expected
        )
        for key, value in {"collected": collected, "rank": rank}.items():
            require(value > 1, f"inference.{key}", value, "an integer of at least 2")
        self.draws = draws
        self.swag_epochs = swag_epochs
        self.swag_learning_rate = swag_learning_rate
        self.collected = collected
        self.rank = rank

    @override
    def begin(
        self, network: WeightEnsemble, x: Tensor, y: Tensor, generator: Generator
    ) -> InferenceState:
        weights = network.initial(1, generator)
        first = self._descent(weights, network, x, y, generator)
        loss = _loss(network, weights, x, y)
        optimizer = momentum_sgd(weights, self.swag_learning_rate)
        epochs = at_least(self.swag_epochs, self.min_steps, len(x), self.batch_size)
        what = loss, len(x), optimizer, epochs, self.batch_size, generator
        second = _CollectingDescent(self.collected, self.rank, *what, decay=False)

        def finish() -> Mapping[str, Any]:
            drawn = [second.trajectory.draw(generator) for _ in range(self.draws)]
            network.assign([torch.cat(parts) for parts in zip(*drawn, strict=True)])
            losses = [*first.train_loss, *second.train_loss]
            return {"train_loss": losses, "collected": second.trajectory.count}

        return InferenceState([first, second], finish, generator, weights)


class _CollectingDescent(Descent):
    """Collects what it changes, so many times.

    Args:
        collected: How often, if there are that many steps.
        rank: See `Trajectory`.
        args: As for `Descent`, and so is `kwargs`.
        kwargs: See there.
    """

    def __init__(self, collected: int, rank: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.trajectory = Trajectory(rank, self.parameters)
        self.every = max(1, self.total * self.per_epoch // collected)

    @override
    def step(self) -> None:
        super().step()
        if self.steps % self.every == 0:
            self.trajectory.collect(self.parameters)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "trajectory": self.trajectory.state_dict()}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.trajectory.load_state_dict(state["trajectory"])


def _loss(
    network: WeightEnsemble, weights: Weights, x: Tensor, y: Tensor
) -> Callable[[Tensor], Tensor]:
    """Return the sum over networks of their mean cross-entropies, of the indices of a minibatch."""

    def loss(index: Tensor) -> Tensor:
        return cross_entropies(network.logits(x[index], weights), y[index]).sum()

    return loss
