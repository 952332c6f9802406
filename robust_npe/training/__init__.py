"""Training: one loop for all estimators and defenses."""

from __future__ import annotations

from robust_npe.training.checkpoints import Checkpoint
from robust_npe.training.loop import run_epoch, train
from robust_npe.training.settings import TrainingSettings
from robust_npe.training.state import History, TrainingState

__all__ = ["Checkpoint", "History", "TrainingSettings", "TrainingState", "run_epoch", "train"]
