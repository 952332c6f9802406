"""Would a check of the data notice the attack?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from typing_extensions import override

from robust_npe.checks import require, require_positive_integer
from robust_npe.discrepancy import z_scored
from robust_npe.metrics.base import Context, Measurement, Metric, summary_rows
from robust_npe.metrics.summary import row

__all__ = ["Detectability", "share_below"]

Score = Callable[[np.ndarray, np.ndarray, list[np.ndarray]], list[np.ndarray]]
"""Fits on clean and attacked observations, and returns scores of sets of others, which are large
where they look attacked."""


class Detectability(Metric):
    """How well clean x and attacked x~ are told apart: the area under the ROC curve (`auroc`).

    0.5 is not at all, 1 always. An attack that any check would notice is a smaller problem.

    - `detectability_mahalanobis`: distance from the mean in units of the covariance, which is
      shrunk (Ledoit-Wolf) where there are less than two clean observations for each feature;
    - `detectability_neighbours`: distance to the k-th nearest clean observation;
    - `detectability_classifier`: a network with one hidden layer that was trained on clean and
      attacked observations, as a two-sample test: what a check could learn that knows the attack.

    The first two know clean observations alone. Each is fitted on some folds and judged on the
    others; an observation and its perturbation are always in the same fold, as else a classifier
    could recognise the pair. Features are z-scored by the clean ones. The value of an observation
    is the share of the clean ones of its fold that look less suspicious than x~ (ties count half):
    `auroc` is the mean of that. Fewer than 10 observations tell nothing.

    References:
        Lee et al. (2018), "A simple unified framework for detecting out-of-distribution samples and
        adversarial attacks", https://arxiv.org/abs/1807.03888;
        Sun et al. (2022), "Out-of-distribution detection with deep nearest neighbors",
        https://arxiv.org/abs/2204.06507;
        Lopez-Paz & Oquab (2017), "Revisiting classifier two-sample tests",
        https://arxiv.org/abs/1610.06545

    Args:
        folds: Number of folds, at least 2.
        neighbours: Which nearest neighbour.
        hidden: Units of the classifier's hidden layer.
    """

    name = "detectability"

    def __init__(self, folds: int = 5, neighbours: int = 5, hidden: int = 100) -> None:
        require(folds > 1, "metrics.detectability.folds", folds, "at least 2")
        require_positive_integer("metrics.detectability.neighbours", neighbours)
        require_positive_integer("metrics.detectability.hidden", hidden)
        self.folds = folds
        self.neighbours = neighbours
        self.hidden = hidden

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        count = len(context.x)
        if not context.attacked or count < max(10, 2 * self.folds):
            return []
        generator = context.generator("detectability")
        fold = torch.randperm(count, generator=generator).numpy() % self.folds
        seed = int(torch.randint(2**31, (), generator=generator))
        scores: dict[str, Score] = {
            "mahalanobis": _mahalanobis,
            "neighbours": partial(_neighbours, k=self.neighbours),
            "classifier": partial(_classifier, hidden=self.hidden, seed=seed),
        }
        clean, attacked = (v.double().cpu().numpy() for v in z_scored(context.x, context.x_adv))
        measurements = []
        for name, score in scores.items():
            values = np.empty(count)
            for test in (fold == i for i in range(self.folds)):
                found = score(clean[~test], attacked[~test], [clean[test], attacked[test]])
                values[test] = share_below(*found)
            rows = [row("auroc", float(values.mean())), *summary_rows(torch.from_numpy(values))]
            each = torch.from_numpy(values)
            measurements.append(Measurement(f"detectability_{name}", rows, each))
        return measurements


def share_below(clean: np.ndarray, attacked: np.ndarray) -> np.ndarray:
    """Return the share of clean scores `(N,)` below each attacked one `(M,)`; ties count half. Its
    mean is the area under the ROC curve."""
    clean = np.sort(clean)
    below, not_above = (np.searchsorted(clean, attacked, side) for side in ("left", "right"))
    return (below + not_above) / (2 * len(clean))


def _mahalanobis(clean: np.ndarray, _: np.ndarray, tests: list[np.ndarray]) -> list[np.ndarray]:
    from sklearn.covariance import EmpiricalCovariance, LedoitWolf  # slow to import, rarely needed

    # shrinking hides steps along narrow directions, where attacks that leave the data go
    enough = len(clean) >= 2 * clean.shape[1]
    fitted = (EmpiricalCovariance if enough else LedoitWolf)().fit(clean)
    return [fitted.mahalanobis(test) for test in tests]


def _neighbours(
    clean: np.ndarray, _: np.ndarray, tests: list[np.ndarray], k: int
) -> list[np.ndarray]:
    from sklearn.neighbors import NearestNeighbors

    fitted = NearestNeighbors(n_neighbors=min(k, len(clean))).fit(clean)
    return [fitted.kneighbors(test)[0][:, -1] for test in tests]


def _classifier(
    clean: np.ndarray, attacked: np.ndarray, tests: list[np.ndarray], hidden: int, seed: int
) -> list[np.ndarray]:
    from sklearn.neural_network import MLPClassifier

    labels = np.repeat([0, 1], [len(clean), len(attacked)])
    fitted = MLPClassifier((hidden,), max_iter=10_000, random_state=seed)
    fitted.fit(np.concatenate((clean, attacked)), labels)
    return [fitted.predict_proba(test)[:, 1] for test in tests]
