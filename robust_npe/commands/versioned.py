"""What settings contribute to an identity."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from robust_npe.attacks import ThreatModel
from robust_npe.config import Evaluation
from robust_npe.training import TrainingSettings
from robust_npe.training.settings import IDENTIFIES

__all__ = ["versioned"]


def versioned(settings: TrainingSettings | Evaluation | ThreatModel) -> dict[str, Any]:
    """Describe settings as components are described, without those that change no number."""
    cls, values = type(settings), asdict(settings)
    kept = [f.name for f in fields(settings) if f.metadata.get(IDENTIFIES, True)]
    return {"class": cls.__name__, "version": [cls.version], **{k: values[k] for k in kept}}
