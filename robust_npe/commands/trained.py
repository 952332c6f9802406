"""What a training leaves for the evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from robust_npe.posterior import Posterior
from robust_npe.store import Artefact

__all__ = ["HISTORY", "WEIGHTS", "Trained"]

HISTORY, WEIGHTS = "history.csv", "weights.safetensors"


@dataclass(frozen=True)
class Trained:
    """What was trained.

    Attributes:
        posterior: What is evaluated: the estimator itself, or what a post-hoc defense makes of one
            or several.
        name: Name of the estimator.
        artefacts: Where the estimators are stored.
    """

    posterior: Posterior
    name: str
    artefacts: Sequence[Artefact]

    @property
    def diverged(self) -> bool:
        """Whether a loss became non-finite, so that earlier weights were restored."""
        facts = [artefact.manifest["facts"] for artefact in self.artefacts]
        # one that went on from its best weights has an infinite loss where it did
        return any(f.get("diverged") or math.inf in f.get("validation_loss", ()) for f in facts)

    @property
    def num_pairs(self) -> float:
        """Number of pairs that they were trained on, after non-finite ones were left out."""
        return float(self.artefacts[0].manifest["facts"].get("num_pairs", "nan"))
