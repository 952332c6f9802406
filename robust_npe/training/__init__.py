"""Training: one loop for all estimators and defenses."""

from __future__ import annotations

from robust_npe.training.checkpoints import Checkpoint
from robust_npe.training.history import history_table, read_history, write_history
from robust_npe.training.inferring import Inferred, infer
from robust_npe.training.loop import run_epoch, train
from robust_npe.training.settings import TrainingSettings
from robust_npe.training.state import History, TrainingState
from robust_npe.training.trackers import TensorBoard, Tracker

__all__ = [
    "Checkpoint",
    "History",
    "Inferred",
    "TensorBoard",
    "Tracker",
    "TrainingSettings",
    "TrainingState",
    "history_table",
    "infer",
    "read_history",
    "run_epoch",
    "train",
    "write_history",
]
