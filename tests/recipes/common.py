"""The smallest sizes at which everything still runs."""

from __future__ import annotations

TINY = (
    "num_simulations=64",
    "num_validation=32",
    "training.max_epochs=1",
    "evaluation.num_test=16",
    "evaluation.num_attacked=4",
    "metric=[nll]",
)
