"""Stochastic gradient descent for many networks at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from robust_npe.bayesian.inference import Columns

__all__ = ["Descent", "at_least", "cross_entropies", "momentum_sgd"]


def at_least(epochs: int, min_steps: int, count: int, batch_size: int) -> int:
    """Return epochs, or as many as make this number of steps, if that is more."""
    return max(epochs, math.ceil(min_steps / math.ceil(count / batch_size)))


def cross_entropies(logits: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross-entropy of each member for logits `(S, B, K)` and labels `(B,)`, shape
    `(S,)`."""
    repeated = y.expand(len(logits), -1).reshape(-1)
    values = cross_entropy(logits.flatten(0, 1), repeated, reduction="none")
    return values.view(len(logits), -1).mean(-1)


class Descent:
    """Minimises a loss over minibatches, in place; an `InferenceStage`.

    Losses that are sums over members train them as if each were alone, except that all see the
    same minibatches: every optimizer here treats each weight by itself.

    Args:
        loss: Maps the indices of a minibatch `(B,)` to the scalar to minimise.
        count: Number of training pairs N.
        optimizer: Of what is changed; what it remembers is there from the start.
        epochs: How often all pairs are seen.
        batch_size: Pairs per step.
        generator: Source of the order.
        members: Number of networks that the loss is the sum over; the history has the mean.
        decay: Whether the learning rate falls to zero along half a cosine; else it is constant.

    Attributes:
        steps: Number of steps so far.
        losses: Of each step of the running epoch.
        order: Of the pairs in that epoch.
        train_loss: The mean loss of each epoch.
    """

    unit = "epoch"

    def __init__(
        self,
        loss: Callable[[Tensor], Tensor],
        count: int,
        optimizer: torch.optim.Optimizer,
        epochs: int,
        batch_size: int,
        generator: Generator,
        members: int = 1,
        decay: bool = True,
    ) -> None:
        self.loss = loss
        self.optimizer = optimizer
        self.parameters: list[Tensor] = optimizer.param_groups[0]["params"]
        self.first_rate = float(optimizer.param_groups[0]["lr"])
        self.total = epochs
        self.batch_size = batch_size
        self.per_epoch = math.ceil(count / batch_size)
        self.generator = generator
        self.members = members
        self.decay = decay
        self.steps = 0
        self.losses: list[float] = []
        self.order = torch.arange(count)
        self.train_loss: list[float] = []

    @property
    def completed(self) -> int:
        """Number of epochs so far."""
        return len(self.train_loss)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        if not self.decay:
            return self.first_rate
        angle = math.pi * step / (self.total * self.per_epoch)
        return self.first_rate * (0.5 * (1 + math.cos(angle)))

    @torch.enable_grad()
    def step(self) -> None:
        """Take a step; the last one of an epoch ends it."""
        if not self.losses:
            self.order = torch.randperm(len(self.order), generator=self.generator)
        first = len(self.losses) * self.batch_size
        index = self.order[first : first + self.batch_size]
        for p in self.parameters:
            p.requires_grad_(True)
        value = self.loss(index)
        self.optimizer.param_groups[0]["lr"] = self.learning_rate(self.steps)
        self.optimizer.zero_grad()
        value.backward()
        self.optimizer.step()
        for p in self.parameters:
            p.requires_grad_(False)
        self.losses.append(float(value.detach()))
        self.steps += 1
        if len(self.losses) == self.per_epoch:
            self.train_loss.append(sum(self.losses) / self.per_epoch / self.members)
            self.losses = []

    def history(self) -> Columns:
        """Return loss and first learning rate of each epoch."""
        epochs = list(range(self.completed))
        rates = [self.learning_rate(epoch * self.per_epoch) for epoch in epochs]
        return {"epoch": epochs, "train_loss": list(self.train_loss), "learning_rate": rates}

    def state_dict(self) -> dict[str, Any]:
        """Return what changes, except the parameters and the generator, which have other owners."""
        return {
            "optimizer": self._moments(),
            "steps": self.steps,
            "losses": self.losses,
            "order": self.order,
            "train_loss": self.train_loss,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for number, moments in self._moments().items():
            for key, value in moments.items():
                value.copy_(state["optimizer"][number][key])
        self.steps = state["steps"]
        self.losses = list(state["losses"])
        self.order = state["order"].clone()
        self.train_loss = list(state["train_loss"])

    def _moments(self) -> dict[str, dict[str, Tensor]]:
        return {str(i): self.optimizer.state[p] for i, p in enumerate(self.parameters)}


def momentum_sgd(parameters: list[Tensor], learning_rate: float) -> torch.optim.SGD:
    """Return SGD with a momentum of 0.9, which is there from the start: it can be loaded."""
    optimizer = torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9)
    for p in parameters:
        optimizer.state[p] = {"momentum_buffer": torch.zeros_like(p)}
    return optimizer
