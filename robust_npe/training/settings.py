"""How to train."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from robust_npe.checks import (
    require,
    require_not_negative,
    require_positive,
    require_positive_integer,
    require_whole,
)

__all__ = ["IDENTIFIES", "TrainingSettings"]

IDENTIFIES = "identifies"  # metadata of a field: whether results depend on it, True if left out


@dataclass
class TrainingSettings:
    """How to train; `scale=paper` has the published settings.

    Attributes:
        batch_size: Pairs per step.
        learning_rate: Learning rate of Adam.
        max_epochs: Training stops at the latest here.
        min_epochs: Training does not stop before.
        patience: Epochs without improvement on the validation set before stopping.
        clip_norm: Norm at which the gradient is clipped.
        decay_patience: Epochs without improvement before training goes back to the best weights
            with a smaller learning rate; None for a constant learning rate (published).
        decay_factor: What the learning rate is multiplied by then, below 1.
        weight_average: Decay per step of a moving average of the weights, which is what is
            validated and kept: it has less gradient noise than the weights themselves, and saves
            waiting for a smaller learning rate. None keeps the weights (published).
        checkpoint_every: Seconds of work after which the state is stored, so that an interrupted
            training goes on; None never stores it. Changes no number, so it is no part of what
            identifies a training.
    """

    version: ClassVar[int] = 2

    batch_size: int = 512
    learning_rate: float = 4e-3
    max_epochs: int = 300
    min_epochs: int = 5
    patience: int = 15
    clip_norm: float = 75.0
    decay_patience: int | None = 5
    decay_factor: float = 0.3
    weight_average: float | None = 0.99
    checkpoint_every: float | None = field(default=30.0, metadata={IDENTIFIES: False})

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("batch_size", "max_epochs", "patience"):
            require_positive_integer(f"training.{name}", getattr(self, name))
        require_positive_integer("training.decay_patience", self.decay_patience, or_null=True)
        require_whole("training.min_epochs", self.min_epochs)
        for name in ("learning_rate", "clip_norm"):
            require_positive(f"training.{name}", getattr(self, name))
        factor = self.decay_factor
        require(0 < factor < 1, "training.decay_factor", factor, "between 0 and 1")
        average = self.weight_average
        in_range = average is None or 0 < average < 1
        require(in_range, "training.weight_average", average, "between 0 and 1, or null")
        require_not_negative("training.checkpoint_every", self.checkpoint_every, or_null=True)
