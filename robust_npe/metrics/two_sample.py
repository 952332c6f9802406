"""Classifier two-sample test against reference posteriors."""

from __future__ import annotations

import math
import sys

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from typing_extensions import override

from robust_npe.checks import require, require_positive_integer
from robust_npe.discrepancy import z_scored
from robust_npe.metrics.base import Context, Measurement, Metric
from robust_npe.posterior import Posterior, as_vectors
from robust_npe.random import draws_from
from robust_npe.tasks.base import Task

__all__ = ["C2ST", "c2st"]


def c2st(p: Tensor, q: Tensor, seed: int = 1, folds: int = 5) -> float:
    """Return the accuracy of a classifier that tells two sets of samples apart.

    0.5 is indistinguishable, 1 is disjoint. Five-fold cross-validated network with two hidden
    layers of 10 D units on data z-scored by the first set (see `z_scored`), as in the sbibm
    benchmark. Of the larger set, a random subset as large as the other is used, since guessing
    the larger side would beat 0.5. Infinite samples count as far away; NaN gives NaN.

    References:
        Lopez-Paz & Oquab (2017), "Revisiting classifier two-sample tests",
        https://arxiv.org/abs/1610.06545
        Lueckmann et al. (2021), "Benchmarking simulation-based inference",
        https://arxiv.org/abs/2101.04653

    Args:
        p: Samples of shape `(N, D)`.
        q: Samples of shape `(M, D)`.
        seed: Seed of classifier and folds.
        folds: Number of folds.
    """
    from sklearn.model_selection import KFold, cross_val_score  # slow to import, rarely needed
    from sklearn.neural_network import MLPClassifier

    if p.isnan().any() or q.isnan().any():
        return math.nan
    count = min(len(p), len(q))
    subset = np.random.default_rng(seed)
    p, q = (v if len(v) == count else v[subset.permutation(len(v))[:count]] for v in (p, q))
    data = torch.cat(z_scored(p, q)).cpu().numpy()
    labels = np.repeat([0, 1], count)
    width = 10 * p.shape[1]
    classifier = MLPClassifier(
        hidden_layer_sizes=(width, width), max_iter=10_000, solver="adam", random_state=seed
    )
    split = KFold(n_splits=folds, shuffle=True, random_state=seed)
    return float(np.mean(cross_val_score(classifier, data, labels, cv=split)))


class C2ST(Metric):
    """C2ST between q and stored samples of the true posterior, on the reference observations.

    Applies to tasks that store reference posteriors. Rows: one per reference observation
    (`statistic=reference`, its number in `level`), and their mean.

    Args:
        num_references: How many reference observations, from the first.
        num_samples: Samples from each side, at most as many as there are reference samples.
    """

    name = "c2st"

    def __init__(self, num_references: int = 10, num_samples: int = 1000) -> None:
        require_positive_integer("metrics.c2st.num_references", num_references)
        require(num_samples > 9, "metrics.c2st.num_samples", num_samples, "at least 10")
        self.num_references = num_references
        self.num_samples = num_samples

    @override
    def missing(self, task: Task, estimator: Posterior, defense: str) -> str:
        return "" if task.num_references else "a task with reference posteriors"

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        count = min(self.num_references, context.task.num_references)
        if context.attacked or count == 0:
            return []
        numbers = range(1, count + 1)
        progress = tqdm(numbers, desc="c2st", disable=not sys.stderr.isatty())
        values = [self._reference(context, i) for i in progress]
        rows = [
            {"statistic": "reference", "level": float(i), "value": v}
            for i, v in zip(numbers, values, strict=True)
        ]
        rows.append({"statistic": "mean", "level": None, "value": float(np.mean(values))})
        return [Measurement("c2st", rows)]

    def _reference(self, context: Context, i: int) -> float:
        reference = context.task.reference(i)
        device = context.x.device
        with draws_from(context.generator(f"c2st {i}")), torch.no_grad():
            q = context.q(reference.x.to(device).unsqueeze(0))
            # as many from each side, so that 0.5 is chance
            count = min(self.num_samples, len(reference.samples))
            samples = as_vectors(q, q.sample((count,))).squeeze(1).cpu()
        return c2st(reference.samples[:count], samples)
