"""The training loop, and when it stops."""

from __future__ import annotations

import logging
import math
import statistics
import sys
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from robust_npe.defenses import Batch, Defense
from robust_npe.defenses.penalty import norm_of
from robust_npe.estimators import Estimator
from robust_npe.random import child, draws_from, replay
from robust_npe.training.checkpoints import Checkpoint, resumed
from robust_npe.training.data import Pairs, usable_pairs
from robust_npe.training.settings import TrainingSettings
from robust_npe.training.state import History, TrainingState
from robust_npe.training.trackers import Tracker

__all__ = ["run_epoch", "train"]

log = logging.getLogger(__name__)

RESTARTS = 3  # a training that diverges more often than that is given up


@torch.enable_grad()  # which importing bayesflow switches off in the whole process
def train(
    estimator: Estimator,
    defense: Defense,
    pairs: Pairs,
    validation: Pairs,
    settings: TrainingSettings,
    generator: Generator,
    checkpoint: Checkpoint | None = None,
    tracker: Tracker | None = None,
) -> History:
    """Train an estimator in place and restore the weights of its best epoch.

    Where the loss becomes non-finite, training goes back to the best weights with a smaller
    learning rate, as on a plateau; with a constant learning rate, or the fourth time, it ends.

    Args:
        estimator: A fresh estimator; its standardisation is fitted here.
        defense: The training objective.
        pairs: Parameters `(N, D)` and observations `(N, Dx)`; those that are not finite are left
            out, with a warning.
        validation: As `pairs`; decides about stopping.
        settings: How to train.
        generator: Source of randomness.
        checkpoint: Where an interrupted training goes on, bit for bit; Ctrl-C and SIGTERM then
            take effect after the running step, with a last checkpoint. None for no file.
        tracker: Is told the numbers of each epoch.

    Raises:
        ConfigError: Pairs of wrong shape, without finite ones, or outside of the prior's support.
        FloatingPointError: The very first epoch gave no finite validation loss.
    """
    pairs = usable_pairs(estimator, pairs, "training")
    validation = usable_pairs(estimator, validation, "validation")
    state = TrainingState(estimator, defense, pairs, settings, generator)
    with resumed(checkpoint, state) as after_step:
        _run_epochs(state, pairs, validation, settings, tracker, after_step)
    estimator.load_state_dict(state.best_weights)
    if state.history.diverged:
        _report_divergence(state.history, defense)
    return state.history


def _run_epochs(
    state: TrainingState,
    pairs: Pairs,
    validation: Pairs,
    settings: TrainingSettings,
    tracker: Tracker | None,
    after_step: Callable[[], None],
) -> None:
    hidden = not sys.stderr.isatty()
    bar = tqdm(total=settings.max_epochs, desc="train", disable=hidden, initial=state.epoch)
    with bar as progress:
        while not _is_finished(state, settings):
            run_epoch(state, pairs, validation, settings, after_step)
            best = min(state.history.validation_loss, default=math.nan)
            if tracker is not None:
                tracker.log(state.epoch - 1, state.history.latest)
            progress.set_postfix(best=f"{best:.3f}", refresh=False)
            progress.update()
    since = state.history.epochs_since_best
    if not state.history.diverged and since < settings.patience:
        log.info(
            "training ended at training.max_epochs=%d, epochs since the best: %d; more may help",
            *(settings.max_epochs, since),
        )


def run_epoch(
    state: TrainingState,
    pairs: Pairs,
    validation: Pairs,
    settings: TrainingSettings,
    after_step: Callable[[], None] | None = None,
) -> None:
    """Go through all pairs once, in a new order, and validate; of an epoch that was interrupted,
    through those that are left.

    Args:
        state: What changes.
        pairs: As for `train`.
        validation: As for `train`.
        settings: How to train.
        after_step: Called after each step that left usable weights; may interrupt.
    """
    theta, x = pairs
    history, epoch = state.history, state.epoch
    order, global_stream = _order(state, len(x))
    for index in order.to(x.device).split(settings.batch_size)[len(state.losses) :]:
        batch = Batch(theta.index_select(0, index), x.index_select(0, index), index, epoch)
        with draws_from(global_stream):
            state.losses.append(_step(state, batch, settings.clip_norm))
        if history.diverged:
            break
        if after_step is not None:
            after_step()
    losses, state.losses = state.losses, []
    history.learning_rate.append(state.learning_rate)
    history.train_loss.append(statistics.fmean(losses))
    if not history.diverged:
        history.validation_loss.append(_validate(state, Batch(*validation)))
        history.diverged = not math.isfinite(history.validation_loss[-1])
    if history.diverged:
        if settings.decay_patience and history.best_epoch >= 0 and history.restarts < RESTARTS:
            _restart(state, pairs, settings)
        return
    if history.validation_loss[-1] < min(history.validation_loss[:-1], default=math.inf):
        history.best_epoch = epoch
        state.keep_weights()
    idle = history.epochs_since_best
    if settings.decay_patience and idle and idle % settings.decay_patience == 0:
        state.learning_rate *= settings.decay_factor
        state.return_to_best()


def _restart(state: TrainingState, pairs: Pairs, settings: TrainingSettings) -> None:
    """Go back to the best weights with a smaller learning rate and nothing else remembered."""
    history = state.history
    history.validation_loss[state.epoch - 1 :] = [math.inf]
    history.diverged = False
    state.learning_rate *= settings.decay_factor
    state.return_to_best()
    state.forget_moments()
    state.defense.setup(state.estimator, *pairs)  # its averages may hold what led astray
    log.warning(
        "the loss became non-finite in epoch %d: training goes on from the weights of epoch %d "
        "with a learning rate of %.2g",
        state.epoch - 1,
        history.best_epoch,
        state.learning_rate,
    )


def _order(state: TrainingState, num_pairs: int) -> tuple[Tensor, Generator]:
    """Return the order of the epoch's pairs, and the stream of losses that draw from torch's global
    one, where the epoch stands."""
    if not state.losses:
        state.epoch_stream = state.generator.get_state()
    generator = Generator().set_state(state.epoch_stream)
    order = torch.randperm(num_pairs, generator=generator)
    if not state.losses:
        state.generator.set_state(generator.get_state())
    global_stream = _aside(generator)
    for _ in state.losses:  # each step advances it by one number, as `draws_from` does
        child(global_stream)
    return order, global_stream


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
    norm = norm_of(gradients)
    if norm > max_norm:
        torch._foreach_mul_(gradients, max_norm / norm)
    return norm


@torch.no_grad()
def _validate(state: TrainingState, batch: Batch) -> float:
    """Objective on the validation set, with the same random numbers every time."""
    generator = Generator()
    generator.set_state(state.validation_stream)
    with draws_from(_aside(generator)):
        return float(state.defense.validation_loss(state.average.estimator, batch, generator))


def _aside(generator: Generator) -> Generator:
    """Return a generator for losses that draw from torch's global stream, see `Head`. It leaves the
    given one as it is, so that defenses draw the same numbers for all estimators."""
    return child(child(replay(generator)))


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
