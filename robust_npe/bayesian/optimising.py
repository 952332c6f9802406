"""Stochastic gradient descent for many networks at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

__all__ = ["at_least", "cross_entropies", "optimise"]


def at_least(epochs: int, min_steps: int, count: int, batch_size: int) -> int:
    """Return epochs, or as many as make this number of steps, if that is more."""
    return max(epochs, math.ceil(min_steps / math.ceil(count / batch_size)))


def cross_entropies(logits: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross-entropy of each member for logits `(S, B, K)` and labels `(B,)`, shape
    `(S,)`."""
    repeated = y.expand(len(logits), -1).reshape(-1)
    values = cross_entropy(logits.flatten(0, 1), repeated, reduction="none")
    return values.view(len(logits), -1).mean(-1)


@torch.enable_grad()
def optimise(
    parameters: list[Tensor],
    loss: Callable[[Tensor], Tensor],
    count: int,
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
    epochs: int,
    batch_size: int,
    generator: Generator,
    decay: bool = True,
    after_step: Callable[[int], Any] | None = None,
) -> list[float]:
    """Minimise a loss over minibatches in place.

    Losses that are sums over members train them as if each were alone, except that all see the
    same minibatches: every optimizer here treats each weight by itself.

    Args:
        parameters: What is changed.
        loss: Maps the indices of a minibatch `(B,)` to the scalar to minimise.
        count: Number of training pairs N.
        optimizer: Made from the parameters.
        epochs: How often all pairs are seen.
        batch_size: Pairs per step.
        generator: Source of the order.
        decay: Whether the learning rate falls to zero along half a cosine; else it is constant.
        after_step: Called with the number of steps so far.

    Returns:
        The mean loss of each epoch.
    """
    for parameter in parameters:
        parameter.requires_grad_(True)
    steps = optimizer(parameters)
    total = epochs * math.ceil(count / batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        steps, lambda t: 0.5 * (1 + math.cos(math.pi * t / total)) if decay else 1.0
    )
    history, taken = [], 0
    for _ in range(epochs):
        losses = []
        for index in torch.randperm(count, generator=generator).split(batch_size):
            value = loss(index)
            steps.zero_grad()
            value.backward()
            steps.step()
            schedule.step()
            losses.append(float(value.detach()))
            taken += 1
            if after_step is not None:
                after_step(taken)
        history.append(sum(losses) / len(losses))
    for parameter in parameters:
        parameter.requires_grad_(False)
    return history
