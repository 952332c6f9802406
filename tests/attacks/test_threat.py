from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from robust_npe.attacks import L1, L2, Linf, ThreatModel, data_domain, std_unit
from robust_npe.attacks.threat import dominant_feature
from robust_npe.checks import ConfigError
from robust_npe.random import stream
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
    for form in (epsilon.tolist(), epsilon.double().numpy()):
        same = threat.ball(form, task, x).steepest_step(torch.ones(3, 2))
        torch.testing.assert_close(same, rows)
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


@pytest.mark.parametrize("epsilon", [-1.0, math.nan, "0.5", None, [0.5, "1"], torch.ones(70, 2)])
def test_epsilon_that_is_no_radius_is_named(task, x, epsilon):
    with pytest.raises(ConfigError, match=r"epsilon=.*number that is not neg") as error:
        ThreatModel().ball(epsilon, task, x)
    assert "\n" not in str(error.value)


def test_share_of_a_feature_by_hand():
    # about the lower median, 0, of the means 0, 0, 3: variances 4, 4, 1 and an offset of 3
    x = torch.tensor([[-2.0, 2.0, 2.0], [0.0, 0.0, 3.0], [2.0, -2.0, 4.0]])
    assert dominant_feature(x) == (2, pytest.approx(10 / 18))


@pytest.mark.parametrize(
    ("scale", "offset", "told"),
    [((1.0, 1e6), 0.0, True), ((1.0, 1.0), 1e6, True), ((1.0, 1.0), 0.0, False)],
)
def test_one_feature_that_sets_the_radius_of_all_is_named(task, caplog, scale, offset, told):
    x = pairs(task, 50)[1] * torch.tensor(scale) + torch.tensor([0.0, offset])
    ThreatModel(epsilon_unit="std").warn(x)
    assert len(caplog.records) == told
    assert ("feature 1 carries 100.0 %" in caplog.text) == told
    assert ("use epsilon_unit=feature" in caplog.text) == told
    caplog.clear()
    ThreatModel(epsilon_unit="feature").warn(x)
    ThreatModel(epsilon_unit="std").warn(x[:1])  # no spread over observations to compare
    assert not caplog.records


def test_feature_unit_needs_two_observations(task, x):
    threat = ThreatModel(epsilon_unit="feature")
    with pytest.raises(ConfigError, match="at least two") as error:
        threat.ball(1.0, task, x[:1])
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="at least two"):
        threat.check(task, 1)
    threat.check(task, 2)


def test_feature_unit_does_not_depend_on_the_unit_of_x(task, x):
    tiny = x * torch.tensor([1e-15, 1.0])
    ball = ThreatModel("linf", "feature", "none").ball(0.5, task, tiny)
    torch.testing.assert_close(
        ball.steepest_step(torch.ones(1, 2))[0] / tiny.std(0), torch.full((2,), 0.5)
    )


def test_constant_features_are_not_moved(task, x):
    x = torch.stack((x[:, 0], torch.zeros(len(x))), dim=1)
    ball = ThreatModel("l2", "feature").ball(0.5, task, x)
    moved = ball.feasible(x, x + 1)
    assert moved.isfinite().all()
    assert float((moved - x)[:, 1].abs().max()) < 1e-30


def test_several_large_features_are_noticed_beside_small_ones(caplog):
    x = torch.randn(200, 10, generator=stream(0))
    ThreatModel().warn(x * torch.tensor([1.0, 100.0] * 5))
    assert not caplog.records
    ThreatModel().warn(x * torch.tensor([1.0, 1e6] * 5))
    assert "standard deviations of the feature that varies least" in caplog.text
    assert "epsilon_unit=feature" in caplog.text
