"""Inference for an estimator, in the place of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Generator

from robust_npe.bayesian.mixture import labels
from robust_npe.bayesian.network import WeightEnsemble
from robust_npe.checks import require
from robust_npe.defenses import Defense, NoDefense, PostHoc
from robust_npe.estimators import Estimator
from robust_npe.training.data import Pairs, usable_pairs

__all__ = ["check_inference", "infer"]

DEFAULT = "robust_npe.bayesian.SGD"  # as in conf/train.yaml


def check_inference(
    estimator: Estimator, defense: Defense, chosen: Mapping[str, Any] | None = None
) -> None:
    """Raise a `ConfigError` where defense or embedding net of a classifier had to be trained, or
    where inference was chosen for what is trained.

    Args:
        estimator: What is to be trained, or inferred.
        defense: With what.
        chosen: The configuration's `inference`.
    """
    if not estimator.classifies:
        target = str((chosen or {}).get("_target_", DEFAULT))
        expected = "left out: it makes the weights of estimator=classifier/mlp alone"
        require(target == DEFAULT, "inference", target.rpartition(".")[2], expected)
        return
    base = defense
    while isinstance(base, PostHoc):
        base = base.base
    plain = isinstance(base, NoDefense)
    require(
        plain, "defense", defense.name, "none for a classifier: inference=... makes its weights"
    )
    free = not any(True for _ in estimator.embedding.parameters())
    name = type(estimator.embedding).__name__
    require(free, "embedding", name, "embedding=identity for classifier/mlp")


def infer(
    estimator: Estimator, defense: Defense, pairs: Pairs, generator: Generator
) -> Mapping[str, Any]:
    """Find the weights of an estimator whose head is a `WeightEnsemble`, in place.

    Args:
        estimator: A fresh estimator; its standardisation is fitted here. Its embedding net must
            have no weights: they would not be found.
        defense: None: `NoDefense`, or one that is post hoc and based on it.
        pairs: Labels `(N, 1)` and inputs `(N, Dx)`.
        generator: Source of randomness.

    Returns:
        What is to be known of it.
    """
    check_inference(estimator, defense)
    theta, x = usable_pairs(estimator, pairs, "training")
    estimator.fit_standardization(theta, x)
    with torch.no_grad():
        context = estimator.context(x)
    head = cast(WeightEnsemble, estimator.head)
    facts = head.inference.fit(head, context, labels(theta), generator)
    if not all(bool(p.isfinite().all()) for p in head.parameters()):
        raise FloatingPointError(
            f"inference={head.inference.name} diverged: its weights are not finite. Take smaller "
            "steps (inference.learning_rate, or inference.step_size)."
        )
    sampler = head.diagnostics._asdict() if any(head.diagnostics) else {}
    return {"num_pairs": len(x), "diverged": False, **sampler, **facts}
