"""Detectability: closed forms for Gaussian data, and planted attacks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from robust_npe.metrics import Context, Detectability
from robust_npe.metrics.detectability import share_below
from robust_npe.random import stream
from tests.helpers import Exact, linear_task

NAMES = ("mahalanobis", "neighbours", "classifier")
FACTOR = torch.tensor([[2.0, 0.0, 0.0], [1.9, 0.3, 0.0], [0.0, 0.0, 1.0]])


def auroc(perturb, num=400, folds=2):
    """Correlated Gaussian data, perturbed."""
    x = torch.randn(num, 3, generator=stream(0)) @ FACTOR.T + 5
    c = Context(linear_task(), Exact(linear_task()), x[:, :2], x, perturb(x), True, 0)
    found = Detectability(folds)(c)
    assert [m.metric for m in found] == [f"detectability_{name}" for name in NAMES]
    for m in found:
        rows = {r["statistic"]: r["value"] for r in m.rows}
        assert rows["auroc"] == pytest.approx(rows["mean"])
        assert m.per_observation.shape == (num,)
    return {name: m.rows[0]["value"] for name, m in zip(NAMES, found, strict=True)}


def test_fresh_clean_data_are_not_noticed():
    fresh = torch.randn(400, 3, generator=stream(1)) @ FACTOR.T + 5
    found = auroc(lambda x: fresh)
    assert all(0.42 < value < 0.58 for value in found.values())


def test_a_pair_does_not_give_itself_away():
    # no information in x~ beside that its twin is known: what leaks would be far from 1/2
    found = auroc(lambda x: x + 1e-4 * torch.randn(x.shape, generator=stream(2)), folds=5)
    assert all(0.42 < value < 0.58 for value in found.values())


def test_a_step_against_the_correlation_in_closed_form():
    # the narrow direction is 0.3 wide: two of its sds, from a chi2 with 3 degrees of freedom
    step = torch.linalg.eigh(FACTOR @ FACTOR.T)
    move = 2 * step.eigenvalues[0].sqrt() * step.eigenvectors[:, 0]
    found = auroc(lambda x: x + move, num=2000)
    clean = stats.chi2(3).rvs(200_000, random_state=0)
    attacked = stats.ncx2(3, 4).rvs(200_000, random_state=1)
    expected = roc_auc_score(np.repeat([0, 1], 200_000), np.concatenate((clean, attacked)))
    assert found["mahalanobis"] == pytest.approx(expected, abs=0.03)
    # the best linear classifier knows the direction: Phi(d / sqrt(2))
    assert found["classifier"] == pytest.approx(stats.norm.cdf(2 / 2**0.5), abs=0.03)


def test_far_away_is_always_noticed():
    assert all(value > 0.99 for value in auroc(lambda x: x + 50).values())


def test_mean_share_is_the_area_under_the_curve():
    clean, attacked = np.array([0.0, 1.0, 1.0, 3.0]), np.array([1.0, 2.0, -1.0])
    labels, scores = np.repeat([0, 1], [4, 3]), np.concatenate((clean, attacked))
    assert share_below(clean, attacked).tolist() == [0.5, 0.75, 0]
    assert share_below(clean, attacked).mean() == pytest.approx(roc_auc_score(labels, scores))


def test_clean_data_and_few_observations_tell_nothing():
    x = torch.zeros(9, 2)
    for attacked, num in ((False, 40), (True, 9)):
        x = torch.randn(num, 2, generator=stream(0))
        c = Context(linear_task(), Exact(linear_task()), x, x, x, attacked, 0)
        assert Detectability()(c) == []


@pytest.mark.parametrize("wrong", [{"folds": 1}, {"neighbours": 0}, {"hidden": 0}])
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Detectability(**wrong)
