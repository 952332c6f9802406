from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from robust_npe.attacks import L1, L2, Linf, ThreatModel, data_domain, std_unit
from robust_npe.checks import ConfigError
from robust_npe.tasks import SIR
from tests.helpers import linear_task, pairs


@pytest.fixture(scope="module")
def task():
    return linear_task(noise_std=0.3)


@pytest.fixture(scope="module")
def x(task):
    return pairs(task, 50)[1] + torch.tensor([0.0, 10.0])


def test_std_unit_averages_the_spread_over_features(x):
    assert std_unit(x) == pytest.approx(np.std(x.numpy(), axis=1, ddof=1).mean(), rel=1e-6)


def test_data_domain_is_one_interval_for_all_features(x):
    low, high = data_domain(x)
    assert low.shape == high.shape == (2,)
    assert (low == x.min()).all()
    assert (high == x.max()).all()


def test_units(task, x):
    chi_mean = math.sqrt(math.pi / 2)  # two degrees of freedom
    expected = {"std": std_unit(x), "absolute": 1.0, "noise": 0.3 * chi_mean}
    for name, unit in expected.items():
        threat = ThreatModel("l2", name)
        assert threat.unit(task, x) == pytest.approx(unit, rel=1e-6)
        assert threat.ball(0.5, task, x).radius == pytest.approx(0.5 * unit, rel=1e-6)
    assert math.isnan(ThreatModel("l2", "feature").unit(task, x))


def test_feature_unit_measures_each_feature_by_its_own_spread(task, x):
    x = x * torch.tensor([1.0, 100.0])
    ball = ThreatModel("linf", "feature").ball(0.5, task, x)
    corner = ball.steepest_step(torch.ones(1, 2))
    torch.testing.assert_close(corner[0], 0.5 * x.std(0))


@pytest.mark.parametrize(("norm", "kind"), [("l1", L1), ("l2", L2), ("linf", Linf)])
def test_norms(task, x, norm, kind):
    assert isinstance(ThreatModel(norm).ball(1.0, task, x), kind)


def test_boxes(task, x):
    assert ThreatModel(domain="none").box(task, x) is None
    assert ThreatModel(domain="none").ball(1.0, task, x).domain is None
    assert ThreatModel(domain="task").box(task, x) is None  # this task knows no limits
    for got, expected in zip(ThreatModel().box(task, x), data_domain(x), strict=True):
        assert torch.equal(got, expected)
    assert ThreatModel().ball(1.0, task, x).domain[1][0] == x.max()
    sir = SIR()
    box = ThreatModel(domain="task").box(sir, torch.ones(3, sir.dim_x))
    for got, expected in zip(box, sir.domain, strict=True):
        torch.testing.assert_close(got, expected.to(got))
        assert got.shape == (sir.dim_x,)


@pytest.mark.parametrize("wrong", [{"norm": "l3"}, {"epsilon_unit": "mm"}, {"domain": "sphere"}])
def test_settings_are_checked(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ThreatModel(**wrong)


@pytest.mark.parametrize("unit", ["std", "absolute", "noise", "feature"])
def test_a_radius_for_each_observation(task, x, unit):
    epsilon = torch.tensor([0.0, 0.5, 2.0])
    threat = ThreatModel("linf", unit)
    rows = threat.ball(epsilon, task, x).steepest_step(torch.ones(3, 2))
    single = [threat.ball(float(e), task, x).steepest_step(torch.ones(1, 2)) for e in epsilon]
    torch.testing.assert_close(rows, torch.cat(single))
    with pytest.raises(ConfigError, match="epsilon"):
        threat.ball(torch.tensor([1.0, -1.0]), task, x)


def test_a_task_without_known_noise_has_no_noise_unit(task, x):
    class Silent(type(task)):
        name = "silent"
        noise_norm = None

    silent = Silent()
    with pytest.raises(ConfigError, match="silent"):
        ThreatModel(epsilon_unit="noise").check(silent)
    with pytest.raises(ConfigError, match="silent"):
        ThreatModel(epsilon_unit="noise").unit(silent, x)
    ThreatModel(epsilon_unit="std").check(silent)


def test_negative_epsilon_is_named(task, x):
    with pytest.raises(ConfigError, match="epsilon"):
        ThreatModel().ball(-1.0, task, x)
