"""Training as an artefact: weights, history, and a checkpoint while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Generator

from robust_npe.commands.trained import HISTORY, WEIGHTS
from robust_npe.defenses import Defense
from robust_npe.estimators import Estimator
from robust_npe.store.parts import PARTS
from robust_npe.store.weights import save_weights
from robust_npe.training import (
    Checkpoint,
    TrainingSettings,
    history_table,
    infer,
    train,
    write_history,
)
from robust_npe.training.data import Pairs
from robust_npe.training.trackers import Tracker

__all__ = ["fit"]


def fit(
    estimator: Estimator,
    defense: Defense,
    pairs: Pairs,
    validation: Pairs,
    settings: TrainingSettings,
    generator: Generator,
    folder: Path,
    tracker: Tracker | None = None,
) -> Mapping[str, Any]:
    """Train, or infer the weights of a classifier, going on from a checkpoint in the folder, and
    write weights and history there.

    Args:
        estimator: And all up to `generator`: as for `train`.
        folder: Of an artefact that is being built.
        tracker: As for `train`.

    Returns:
        What is to be known of the training.
    """
    checkpoint = Checkpoint(folder / PARTS / "checkpoint", settings.checkpoint_every)
    facts: dict[str, Any]
    if estimator.classifies:
        inferred = infer(estimator, defense, pairs, generator, checkpoint, tracker)
        facts, table = {**inferred.facts}, inferred.history
    else:
        what = estimator, defense, pairs, validation, settings, generator
        history = train(*what, checkpoint, tracker)
        facts, table = asdict(history) | {"defense": defense.facts()}, history_table(history)
    save_weights(estimator, folder / WEIGHTS)
    write_history(table, folder / HISTORY)
    return facts | {"remarks": estimator.remarks, "seconds_before": checkpoint.seconds}
