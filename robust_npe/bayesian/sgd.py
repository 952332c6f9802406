"""Weights that stochastic gradient descent finds: one network, several, or a Gaussian around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor
from typing_extensions import override

from robust_npe.bayesian.inference import Inference, Weights
from robust_npe.bayesian.moments import Trajectory
from robust_npe.bayesian.optimising import at_least, cross_entropies, optimise
from robust_npe.checks import require

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
            require(value > 0, f"inference.{key}", value, "a positive integer")
        require(learning_rate > 0, "inference.learning_rate", learning_rate, "a positive number")
        require(min_steps >= 0, "inference.min_steps", min_steps, "a number that is not negative")
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
    def fit(
        self, network: WeightEnsemble, x: Tensor, y: Tensor, generator: Generator
    ) -> Mapping[str, Any]:
        weights, losses = self._trained(self.members, network, x, y, generator)
        network.assign(weights)
        return {"train_loss": losses}

    def _trained(
        self, members: int, network: WeightEnsemble, x: Tensor, y: Tensor, generator: Generator
    ) -> tuple[Weights, list[float]]:
        """Return weights, and the mean cross-entropy of each epoch."""
        weights = network.initial(members, generator)
        loss = _loss(network, weights, x, y)
        adam = partial(torch.optim.Adam, lr=self.learning_rate)
        epochs = at_least(self.epochs, self.min_steps, len(x), self.batch_size)
        sizes = len(x), adam, epochs, self.batch_size
        losses = optimise(weights, loss, *sizes, generator)
        return weights, [value / members for value in losses]


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
        require(swag_epochs > 0, "inference.swag_epochs", swag_epochs, "a positive integer")
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
    def fit(
        self, network: WeightEnsemble, x: Tensor, y: Tensor, generator: Generator
    ) -> Mapping[str, Any]:
        weights, losses = self._trained(1, network, x, y, generator)
        trajectory = Trajectory(self.rank)
        epochs = at_least(self.swag_epochs, self.min_steps, len(x), self.batch_size)
        steps = epochs * -(-len(x) // self.batch_size)
        every = max(1, steps // self.collected)
        loss = _loss(network, weights, x, y)

        def collect(step: int) -> None:
            if step % every == 0:
                trajectory.collect(weights)

        sgd = partial(torch.optim.SGD, lr=self.swag_learning_rate, momentum=0.9)
        sizes = len(x), sgd, epochs, self.batch_size
        losses += optimise(weights, loss, *sizes, generator, False, collect)
        drawn = [trajectory.draw(generator) for _ in range(self.draws)]
        network.assign([torch.cat(parts) for parts in zip(*drawn, strict=True)])
        return {"train_loss": losses, "collected": trajectory.count}


def _loss(
    network: WeightEnsemble, weights: Weights, x: Tensor, y: Tensor
) -> Callable[[Tensor], Tensor]:
    """Return the sum over networks of their mean cross-entropies, of the indices of a minibatch."""

    def loss(index: Tensor) -> Tensor:
        return cross_entropies(network.logits(x[index], weights), y[index]).sum()

    return loss
