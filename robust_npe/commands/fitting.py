"""Training as an artefact: weights, history, and a checkpoint while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Generator

from robust_npe.defenses import Defense
from robust_npe.estimators import Estimator
from robust_npe.files import write_atomically
from robust_npe.store.parts import PARTS
from robust_npe.store.weights import save_weights
from robust_npe.training import Checkpoint, History, TrainingSettings, infer, train
from robust_npe.training.data import Pairs

__all__ = ["CHECKPOINT", "HISTORY", "WEIGHTS", "fit"]

CHECKPOINT, HISTORY, WEIGHTS = "checkpoint.safetensors", "history.csv", "weights.safetensors"


def fit(
    estimator: Estimator,
    defense: Defense,
    pairs: Pairs,
    validation: Pairs,
    settings: TrainingSettings,
    generator: Generator,
    folder: Path,
    interval: float | None,
) -> Mapping[str, Any]:
    """Train, going on from a checkpoint in the folder, and write weights and history there; for a
    classifier, infer its weights.

    Args:
        estimator: And all up to `generator`: as for `train`.
        folder: Of an artefact that is being built.
        interval: Seconds between checkpoints, see `Checkpoint`.

    Returns:
        What is to be known of the training.
    """
    if estimator.classifies:
        facts = infer(estimator, defense, pairs, generator)
        save_weights(estimator, folder / WEIGHTS)
        return {**facts, "remarks": estimator.remarks}
    checkpoint = Checkpoint(folder / PARTS / CHECKPOINT, interval)
    history = train(estimator, defense, pairs, validation, settings, generator, checkpoint)
    save_weights(estimator, folder / WEIGHTS)
    write_atomically(folder / HISTORY, _table(history).to_csv(index=False).encode())
    return asdict(history) | {"remarks": estimator.remarks, "defense": defense.facts()}


def _table(history: History) -> pd.DataFrame:
    """Return a row for each epoch; the last one of a training that diverged was not validated."""
    epochs = range(len(history.train_loss))
    columns = {
        "train_loss": history.train_loss,
        "validation_loss": history.validation_loss,
        "learning_rate": history.learning_rate,
    }
    table = pd.DataFrame({name: pd.Series(values) for name, values in columns.items()})
    table = table.reindex(epochs).rename_axis("epoch").reset_index()
    return table.assign(is_best=table.epoch == history.best_epoch)
