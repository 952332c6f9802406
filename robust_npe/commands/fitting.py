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
from robust_npe.training import Checkpoint, TrainingSettings, infer, train, write_history
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
    """Train, going on from a checkpoint in the folder, and write weights and history there; for a
    classifier, infer its weights.

    Args:
        estimator: And all up to `generator`: as for `train`.
        folder: Of an artefact that is being built.
        tracker: As for `train`.

    Returns:
        What is to be known of the training.
    """
    if estimator.classifies:
        facts = infer(estimator, defense, pairs, generator)
        save_weights(estimator, folder / WEIGHTS)
        return {**facts, "remarks": estimator.remarks}
    checkpoint = Checkpoint(folder / PARTS / "checkpoint", settings.checkpoint_every)
    what = estimator, defense, pairs, validation, settings, generator
    history = train(*what, checkpoint, tracker)
    save_weights(estimator, folder / WEIGHTS)
    write_history(history, folder / HISTORY)
    facts = {"remarks": estimator.remarks, "defense": defense.facts()}
    return asdict(history) | facts | {"seconds_before": checkpoint.seconds}
