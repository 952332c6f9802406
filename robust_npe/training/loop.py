"""The training loop, and when it stops."""

from __future__ import annotations

import logging
import math
import sys

import torch
from torch import Generator
from tqdm import tqdm

from robust_npe.defenses import Batch, Defense
from robust_npe.estimators import Estimator
from robust_npe.random import draws_from
from robust_npe.training.checkpoints import Checkpoint
from robust_npe.training.data import Pairs, usable_pairs
from robust_npe.training.settings import TrainingSettings
from robust_npe.training.state import History, TrainingState, aside

__all__ = ["run_epoch", "train"]

log = logging.getLogger(__name__)


@torch.enable_grad()  # which importing bayesflow switches off in the whole process
def train(
    estimator: Estimator,
    defense: Defense,
    pairs: Pairs,
    validation: Pairs,
    settings: TrainingSettings,
    generator: Generator,
    checkpoint: Checkpoint | None = None,
) -> History:
    """Train an estimator in place and restore the weights of its best epoch.

    Args:
        estimator: A fresh estimator; its standardisation is fitted here.
        defense: The training objective.
        pairs: Parameters `(N, D)` and observations `(N, Dx)`; those that are not finite are left
            out, with a warning.
        validation: As `pairs`; decides about stopping.
        settings: How to train.
        generator: Source of randomness.
        checkpoint: Where the state is kept in case of an interruption, and taken from: the result
            is the same, bit for bit. Defaults to none.

    Raises:
        ConfigError: Pairs of wrong shape, without finite ones, or outside of the prior's support.
        FloatingPointError: The very first epoch gave no finite validation loss.
    """
    pairs = usable_pairs(estimator, pairs, "training")
    validation = usable_pairs(estimator, validation, "validation")
    state = TrainingState(estimator, defense, pairs, settings, generator)
    checkpoint = checkpoint or Checkpoint()
    quiet = not sys.stderr.isatty()
    with (
        checkpoint.keeping(state),
        tqdm(
            total=settings.max_epochs, desc="train", disable=quiet, initial=state.epoch
        ) as progress,
    ):
        while not _is_finished(state, settings):
            run_epoch(state, pairs, validation, settings, checkpoint)
            best = min(state.history.validation_loss, default=math.nan)
            progress.set_postfix(best=f"{best:.3f}", refresh=False)
            progress.update()
    estimator.load_state_dict(state.best_weights)
    if state.history.diverged:
        _report_divergence(state.history, defense)
    return state.history


def run_epoch(
    state: TrainingState,
    pairs: Pairs,
    validation: Pairs,
    settings: TrainingSettings,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Go through all pairs once, in a new order, and validate; arguments as for `train`.

    An epoch that was interrupted is ended.
    """
    theta, x = pairs
    history, epoch = state.history, state.epoch
    if not state.position:
        state.start_epoch()
    while state.position < len(x):
        index = state.order[state.position : state.position + settings.batch_size]
        batch = Batch(theta.index_select(0, index), x.index_select(0, index), index, epoch)
        with draws_from(state.aside):
            state.losses.append(_step(state, batch, settings.clip_norm))
        if history.diverged:
            break
        state.position += len(index)
        if checkpoint is not None:
            checkpoint.step_done(state)
    state.end_epoch()
    if not history.diverged:
        history.validation_loss.append(_validate(state, Batch(*validation)))
        history.diverged = not math.isfinite(history.validation_loss[-1])
    if history.diverged:
        return
    if history.validation_loss[-1] < min(history.validation_loss[:-1], default=math.inf):
        history.best_epoch = epoch
        state.keep_weights()
    idle = history.epochs_since_best
    if settings.decay_patience and idle and idle % settings.decay_patience == 0:
        state.learning_rate *= settings.decay_factor
        state.return_to_best()


def _step(state: TrainingState, batch: Batch, clip_norm: float) -> float:
    """Take one step unless that would make the weights useless, and return the loss."""
    loss = state.defense.loss(state.estimator, batch, state.generator)
    state.optimizer.zero_grad()
    loss.backward()
    norm = _clip_gradient(state.estimator, clip_norm)
    value = float(loss.detach())
    state.history.diverged = not math.isfinite(value + norm)
    if not state.history.diverged:
        state.optimizer.step()
        with torch.no_grad():
            state.defense.constrain(state.estimator)
        state.average.update()
    return value


def _clip_gradient(estimator: Estimator, max_norm: float) -> float:
    """Shorten the gradient to the given norm, and return the norm that it had."""
    gradients = [p.grad for p in estimator.parameters() if p.grad is not None]
    norm = float(torch.stack(torch._foreach_norm(gradients)).norm())
    if norm > max_norm:
        torch._foreach_mul_(gradients, max_norm / norm)
    return norm


@torch.no_grad()
def _validate(state: TrainingState, batch: Batch) -> float:
    """Objective on the validation set, with the same random numbers every time."""
    generator = Generator()
    generator.set_state(state.validation_stream)
    with draws_from(aside(generator)):
        return float(state.defense.validation_loss(state.average.estimator, batch, generator))


def _is_finished(state: TrainingState, settings: TrainingSettings) -> bool:
    history, epoch = state.history, state.epoch
    idle = epoch >= settings.min_epochs and history.epochs_since_best >= settings.patience
    return history.diverged or epoch >= settings.max_epochs or idle


def _report_divergence(history: History, defense: Defense) -> None:
    epoch = len(history.train_loss) - 1
    beta, advice = "", "Try a smaller training.learning_rate"
    if defense.beta:
        beta, advice = f", beta {defense.beta:g}", f"{advice} or beta"
    if history.best_epoch < 0:
        raise FloatingPointError(
            f"The loss became non-finite in epoch {epoch}, before any usable weights existed "
            f"(defense {defense.name}{beta}). {advice}."
        )
    log.error(
        "The loss became non-finite in epoch %d; training stopped and the weights of epoch %d "
        "were restored. %s.",
        epoch,
        history.best_epoch,
        advice,
    )
