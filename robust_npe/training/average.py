"""Averaging of weights during training."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from robust_npe.estimators import Estimator

__all__ = ["WeightAverage"]


class WeightAverage:
    """Exponential moving average of an estimator's weights.

    Early on the decay is (1 + t) / (10 + t) after t updates, if that is smaller, so that short
    trainings forget their start.

    References:
        Polyak & Juditsky (1992), "Acceleration of stochastic approximation by averaging".

    Args:
        estimator: What is trained.
        decay: Decay per update; None for no averaging.

    Attributes:
        estimator: A copy with the averaged weights; the trained estimator itself if decay is None.
    """

    def __init__(self, estimator: Estimator, decay: float | None) -> None:
        self.decay = decay
        self.estimator = estimator if decay is None else copy.deepcopy(estimator)
        self._weights: list[Tensor] = list(estimator.parameters())
        self._averages: list[Tensor] = list(self.estimator.parameters())
        self._updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the current weights."""
        if self.decay is None:
            return
        decay = min(self.decay, (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay)
        self._updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights, not copied, and the number of updates."""
        weights = {} if self.decay is None else self.estimator.state_dict()
        return {"estimator": weights, "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        if self.decay is not None:
            self.estimator.load_state_dict(state["estimator"])
        self._updates = state["updates"]
