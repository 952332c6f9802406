"""Training: one loop for all estimators and defenses."""

from __future__ import annotations

from robust_npe.training.loop import History, TrainingSettings, train

__all__ = ["History", "TrainingSettings", "train"]
