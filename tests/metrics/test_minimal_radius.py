from __future__ import annotations

import pytest
import torch

from robust_npe.attacks import PGD, KLForward, ThreatModel
from robust_npe.checks import ConfigError
from robust_npe.metrics import Context, MinimalRadius
from robust_npe.metrics.base import summary_rows
from tests.helpers import Exact, linear_task, pairs


def context_of(attacked=False, batch_size=8):
    task = linear_task()
    theta, x = pairs(task, 12)
    threat = ThreatModel("l2", "std", "none")

    def ball(epsilon):
        return threat.ball(epsilon, task, x)

    attack = PGD(KLForward(), steps=100)
    last = attacked, 0, batch_size, attack, ball
    return Context(task, Exact(task), theta, x, x, *last), threat.unit(task, x)


def expected(context, threshold):
    """KL is delta^T A delta / 2 with A the information of the posterior mean, equal everywhere."""
    x = context.x[:1]
    p = context.task.true_posterior(x)
    slope = torch.autograd.functional.jacobian(lambda v: context.task.true_posterior(v).mean[0], x)
    slope = slope.squeeze(1)
    information = slope.T @ torch.linalg.inv(p.covariance_matrix[0]) @ slope
    return float((2 * threshold / torch.linalg.eigvalsh(information)[-1]).sqrt())


@pytest.mark.parametrize("threshold", [None, 0.2])
def test_radii_and_curve_of_an_exact_gaussian_posterior(threshold):
    context, unit = context_of()
    metric = MinimalRadius(threshold=threshold, num_observations=10)
    (measured,) = metric(context)
    assert measured.metric == "minimal_radius_kl_forward"
    radii = measured.per_observation
    true = expected(context, threshold or 1.0) / unit
    assert radii.shape == (10,)
    assert float((radii / true - 1).abs().max()) < 0.015
    assert measured.rows[: len(summary_rows(radii))] == summary_rows(radii)
    curve = {r["level"]: r["value"] for r in measured.rows if r["statistic"] == "broken"}
    assert len(curve) == 50
    assert max(curve) == pytest.approx(2)
    assert curve == {level: float((radii <= level).double().mean()) for level in curve}
    (told,) = [r["value"] for r in measured.rows if r["statistic"] == "threshold"]
    assert told == (threshold or 1.0)


@pytest.mark.parametrize("criterion", ["mean_shift", "coverage"])
def test_other_criteria_have_rows_of_their_own(criterion):
    context, _ = context_of()
    (measured,) = MinimalRadius(criterion, searches=3, num_samples=100)(context)
    assert measured.metric == f"minimal_radius_{criterion}"
    assert (measured.per_observation >= 0).all()


def test_measured_once_with_the_clean_observations():
    assert MinimalRadius()(context_of(attacked=True)[0]) == []
    c, _ = context_of()
    assert MinimalRadius()(Context(c.task, c.posterior, c.theta, c.x, c.x, False, 0)) == []


@pytest.mark.parametrize(
    "wrong",
    [{"criterion": "mmd"}, {"threshold": 0.0}, {"largest": 0.0}, {"num_observations": 0}],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"metrics.minimal_radius.{next(iter(wrong))}"):
        MinimalRadius(**wrong)
