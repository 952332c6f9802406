"""How to train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robust_npe.checks import require

__all__ = ["TrainingSettings"]


@dataclass
class TrainingSettings:
    """How to train; the defaults are the published settings where those exist.

    Attributes:
        batch_size: Pairs per step.
        learning_rate: Learning rate of Adam.
        max_epochs: Training stops at the latest here.
        min_epochs: Training does not stop before.
        patience: Epochs without improvement on the validation set before stopping.
        clip_norm: Norm at which the gradient is clipped.
        decay_patience: Epochs without improvement before the learning rate is halved; None for a
            constant learning rate (published).
        weight_average: Decay per step of a moving average of the weights, which is what is
            validated and kept: it has less gradient noise than the weights themselves, and saves
            waiting for a smaller learning rate. None keeps the weights (published).
    """

    version: ClassVar[int] = 1

    batch_size: int = 512
    learning_rate: float = 1e-3
    max_epochs: int = 300
    min_epochs: int = 5
    patience: int = 10
    clip_norm: float = 75.0
    decay_patience: int | None = 5
    weight_average: float | None = 0.99

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("batch_size", "learning_rate", "max_epochs", "patience", "clip_norm"):
            value = getattr(self, name)
            require(value > 0, f"training.{name}", value, "a positive number")
        decay = self.decay_patience
        require(decay is None or decay > 0, "training.decay_patience", decay, "positive or null")
        average = self.weight_average
        in_range = average is None or 0 < average < 1
        require(in_range, "training.weight_average", average, "between 0 and 1, or null")
