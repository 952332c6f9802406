"""Inference for an estimator, in the place of training."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd
import torch
from torch import Generator
from tqdm import tqdm

from robust_npe.bayesian.inference import InferenceState
from robust_npe.bayesian.mixture import labels
from robust_npe.bayesian.network import WeightEnsemble
from robust_npe.checks import require
from robust_npe.defenses import Defense, NoDefense, PostHoc
from robust_npe.estimators import Estimator
from robust_npe.training.checkpoints import Checkpoint, resumed
from robust_npe.training.data import Pairs, usable_pairs
from robust_npe.training.trackers import Tracker

__all__ = ["Inferred", "check_inference", "infer"]

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


@dataclass(frozen=True)
class Inferred:
    """What is to be known of an inference.

    Attributes:
        facts: Plain values.
        history: A row for each epoch (`epoch`, `train_loss`, `learning_rate` of its first step), or
            for each trajectory of each chain, see `robust_npe.bayesian.chains.HMCChains.history`.
    """

    facts: Mapping[str, Any]
    history: pd.DataFrame


def infer(
    estimator: Estimator,
    defense: Defense,
    pairs: Pairs,
    generator: Generator,
    checkpoint: Checkpoint | None = None,
    tracker: Tracker | None = None,
) -> Inferred:
    """Find the weights of an estimator whose head is a `WeightEnsemble`, in place.

    Args:
        estimator: A fresh estimator; its standardisation is fitted here. Its embedding net must
            have no weights: they would not be found.
        defense: None: `NoDefense`, or one that is post hoc and based on it.
        pairs: Labels `(N, 1)` and inputs `(N, Dx)`.
        generator: Source of randomness.
        checkpoint: As for `train`.
        tracker: Is told the numbers of each epoch, or means over chains for each trajectory.
    """
    check_inference(estimator, defense)
    theta, x = usable_pairs(estimator, pairs, "training")
    estimator.fit_standardization(theta, x)
    with torch.no_grad():
        context = estimator.context(x)
    head = cast(WeightEnsemble, estimator.head)
    state = head.inference.begin(head, context, labels(theta), generator)
    with resumed(checkpoint, state) as after_step:
        _run(state, tracker, after_step)
    facts = state.finish()
    if not all(bool(p.isfinite().all()) for p in head.parameters()):
        raise FloatingPointError(
            f"inference={head.inference.name} diverged: its weights are not finite. Take smaller "
            "steps (inference.learning_rate, or inference.step_size)."
        )
    sampler = head.diagnostics._asdict() if any(head.diagnostics) else {}
    known = {"num_pairs": len(x), "diverged": False, **sampler, **facts}
    return Inferred(known, pd.DataFrame(state.history()))


def _run(state: InferenceState, tracker: Tracker | None, after_step: Callable[[], None]) -> None:
    hidden, completed = not sys.stderr.isatty(), state.completed
    bar = tqdm(total=state.total, desc="infer", disable=hidden, initial=completed, unit=state.unit)
    with bar as progress:
        while state.completed < state.total:
            state.step()
            if state.completed > completed:
                progress.update()
                if tracker is not None:
                    tracker.log(completed, _latest(state))
                completed = state.completed
            after_step()


def _latest(state: InferenceState) -> dict[str, float]:
    """The numbers of the last epoch or trajectory, means over chains."""
    table = pd.DataFrame(state.history()).groupby(state.unit).mean()
    last = table.drop(columns="chain", errors="ignore").iloc[-1]
    return {str(name): float(value) for name, value in last.items()}
