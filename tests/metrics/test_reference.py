"""The computed posterior against the closed form of the linear Gaussian task."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal

from robust_npe.metrics import Context, ReferencePosterior
from tests.helpers import Exact, gaussian_kl, linear_task, pairs
from tests.reference.problems import Mute

TASK = linear_task()
MOVE = torch.tensor([0.3, -0.2])


def context(estimator, attacked):
    theta, x = pairs(TASK, 5)
    return Context(TASK, estimator, theta, x, x + MOVE if attacked else x, attacked, 0, 16)


def values(context, **settings):
    metric = ReferencePosterior(**{"num_observations": 2, "c2st": False, **settings})
    return {m.metric: m.per_observation for m in metric(context)}


@pytest.mark.parametrize("method", ["exact", "importance"])
def test_divergences_are_absolute(method):
    estimator = Exact(TASK, spread=1.3, shift=0.2)
    c = context(estimator, attacked=True)
    got = values(c, method=method, num_samples=3000)
    p, p_adv = TASK.true_posterior(c.x[:2]), TASK.true_posterior(c.x_adv[:2])
    q_adv = MultivariateNormal(p_adv.mean + 0.2, 1.3**2 * p_adv.covariance_matrix)
    expected = {
        "reference_error": gaussian_kl(p_adv, q_adv),
        "reference_movement": gaussian_kl(p, p_adv),
    }
    for name, value in expected.items():
        torch.testing.assert_close(got[name].float(), value.float(), rtol=0.15, atol=0.05)
    assert (got["reference_ess"] > 1000).all()
    assert (got["reference_mmd"] > 0.01).all()


def test_clean_data_of_an_exact_estimator():
    got = values(context(Exact(TASK), attacked=False), method="importance", c2st=True)
    assert set(got) == {f"reference_{n}" for n in ("error", "mmd", "c2st", "ess")}
    assert got["reference_error"].abs().max() < 0.05
    assert got["reference_c2st"].max() < 0.57
    assert got["reference_mmd"].abs().max() < 0.02


def test_what_did_not_converge_or_is_impossible_is_nan(monkeypatch):
    c = context(Exact(TASK), attacked=True)
    got = values(c, method="importance", max_evaluations=100)
    assert got["reference_error"].isnan().all()
    monkeypatch.setattr(TASK, "log_likelihood", lambda t, x: torch.full((len(t),), -torch.inf))
    got = values(c, method="importance")
    assert all(v.isnan().all() for v in got.values())


def test_tasks_without_likelihood_are_left_out():
    x = torch.zeros(2, 1)
    c = Context(Mute(), Exact(TASK), x, x, x, True, 0)
    assert ReferencePosterior()(c) == []


@pytest.mark.parametrize("wrong", [{"num_observations": 0}, {"num_samples": 5}, {"method": "x"}])
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ReferencePosterior(**wrong)
