"""The training loop, and when it stops."""

from __future__ import annotations

import logging
import math
import statistics
import sys
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from robust_npe.checks import require
from robust_npe.defenses import Defense
from robust_npe.estimators import Estimator
from robust_npe.random import child
from robust_npe.training.average import WeightAverage

__all__ = ["History", "TrainingSettings", "train"]

log = logging.getLogger(__name__)


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


@dataclass
class History:
    """What happened during training.

    Attributes:
        train_loss: Mean training loss of each epoch.
        validation_loss: Objective on the validation set after each epoch.
        best_epoch: Epoch (from 0) whose weights were kept.
        diverged: A loss or its gradient became non-finite; training stopped there.
    """

    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    best_epoch: int = -1
    diverged: bool = False

    @property
    def epochs_since_best(self) -> int:
        """Number of epochs without improvement."""
        return len(self.validation_loss) - 1 - self.best_epoch


def train(
    estimator: Estimator,
    defense: Defense,
    pairs: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    settings: TrainingSettings,
    generator: Generator,
) -> History:
    """Train an estimator in place and restore the weights of its best epoch.

    Args:
        estimator: A fresh estimator; its standardisation is fitted here.
        defense: The training objective.
        pairs: Parameters `(N, D)` and observations `(N, Dx)`.
        validation: As `pairs`; decides about stopping.
        settings: How to train.
        generator: Source of randomness.

    Raises:
        FloatingPointError: The very first epoch gave no finite validation loss.
    """
    theta, x = pairs
    estimator.fit_standardization(theta, x)
    defense.setup(theta, x)
    optimizer = torch.optim.Adam(estimator.parameters(), lr=settings.learning_rate, fused=True)
    kept = WeightAverage(estimator, settings.weight_average)
    history, best_weights = History(), _copy(estimator)
    validation_state = child(generator).get_state()

    epochs = tqdm(range(settings.max_epochs), desc="train", disable=not sys.stderr.isatty())
    for epoch in epochs:
        losses = []
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for batch in order.split(settings.batch_size):
            rows = theta.index_select(0, batch), x.index_select(0, batch)
            defense.select(batch)
            loss = defense.loss(estimator, *rows, generator)
            optimizer.zero_grad()
            loss.backward()
            norm = _clip_gradient(estimator, settings.clip_norm)
            losses.append(float(loss.detach()))
            history.diverged = not math.isfinite(losses[-1] + norm)
            if history.diverged:  # before the step, which would make the weights useless
                break
            optimizer.step()
            kept.update()
        history.train_loss.append(statistics.fmean(losses))
        if not history.diverged:
            value = _validate(kept.estimator, defense, validation, validation_state)
            history.validation_loss.append(value)
            history.diverged = not math.isfinite(value)
        if history.diverged:
            break
        if history.validation_loss[-1] < min(history.validation_loss[:-1], default=math.inf):
            history.best_epoch = epoch
            best_weights = _copy(kept.estimator)
        idle = history.epochs_since_best
        if settings.decay_patience and idle and idle % settings.decay_patience == 0:
            for group in optimizer.param_groups:
                group["lr"] /= 2
        epochs.set_postfix(loss=f"{history.validation_loss[-1]:.3f}", refresh=False)
        if epoch + 1 >= settings.min_epochs and idle >= settings.patience:
            break

    estimator.load_state_dict(best_weights)
    if history.diverged:
        _report_divergence(history, defense)
    return history


def _copy(estimator: Estimator) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in estimator.state_dict().items()}


def _clip_gradient(estimator: Estimator, max_norm: float) -> float:
    """Shorten the gradient to the given norm, and return the norm that it had."""
    gradients = [p.grad for p in estimator.parameters() if p.grad is not None]
    norm = float(torch.stack(torch._foreach_norm(gradients)).norm())
    if norm > max_norm:
        torch._foreach_mul_(gradients, max_norm / norm)
    return norm


def _validate(
    estimator: Estimator, defense: Defense, validation: tuple[Tensor, Tensor], state: Tensor
) -> float:
    """Objective on the validation set, with the same random numbers every time."""
    generator = Generator()
    generator.set_state(state)
    with torch.no_grad():
        return float(defense.validation_loss(estimator, *validation, generator))


def _report_divergence(history: History, defense: Defense) -> None:
    epoch = len(history.train_loss) - 1
    if history.best_epoch < 0:
        raise FloatingPointError(
            f"The loss became non-finite in epoch {epoch}, before any usable weights existed "
            f"(defense {defense.name}, beta {defense.beta}). Try a smaller beta or "
            "training.learning_rate."
        )
    log.error(
        "The loss became non-finite in epoch %d; training stopped and the weights of epoch %d "
        "were restored. Try a smaller beta or training.learning_rate.",
        epoch,
        history.best_epoch,
    )
