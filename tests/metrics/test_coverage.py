from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import Independent, Uniform

from robust_npe.metrics import Context, Coverage, coverage_curve, coverage_summary
from tests.helpers import Exact, linear_task, pairs

TASK = linear_task()


def context(estimator, num=2000, batch_size=300, move=0.0):
    theta, x = pairs(TASK, num)
    return Context(TASK, estimator, theta, x, x + move, bool(move), 0, batch_size)


def measure(estimator, num_samples=100, **kwargs):
    curve, levels = Coverage(num_samples)(context(estimator, **kwargs))
    assert (curve.metric, levels.metric) == ("coverage", "hpd_level")
    return curve.rows, levels.per_observation


def value(rows, statistic):
    (found,) = [r["value"] for r in rows if r["statistic"] == statistic]
    return found


def test_exact_posterior_is_calibrated():
    rows, levels = measure(Exact(TASK))
    assert stats.kstest(levels.numpy(), "uniform").pvalue > 1e-3
    assert abs(value(rows, "signed_area")) < 0.03
    assert value(rows, "mean_absolute_error") < 0.03
    curve = {r["level"]: r["value"] for r in rows if r["statistic"] == "coverage"}
    assert list(curve) == pytest.approx(np.linspace(0, 1, 21))
    assert curve[0.0] == 0
    assert curve[1.0] == 1
    assert curve[0.5] == pytest.approx(0.5, abs=4 * 0.5 / 2000**0.5)


@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_curve_of_posteriors_that_are_too_narrow_or_too_wide(spread):
    # the region of level a is |z|^2 <= chi2 quantile in units of q; the truth is spread wider
    rows, _ = measure(Exact(TASK, spread=spread), num_samples=400)
    for row in rows:
        if row["statistic"] == "coverage":
            chi2 = stats.chi2(2)
            expected = chi2.cdf(spread**2 * chi2.ppf(row["level"]))
            assert row["value"] == pytest.approx(expected, abs=0.045)
    area = value(rows, "signed_area")
    assert (area < -0.15) if spread < 1 else (area > 0.15)  # narrow is overconfident
    assert value(rows, "mean_absolute_error") == pytest.approx(abs(area), rel=0.1)


def test_attacked_observations_are_what_is_judged():
    rows, _ = measure(Exact(TASK), move=2.0)
    assert value(rows, "signed_area") < -0.3


def test_levels_have_no_ties_at_the_ends_and_follow_the_seed():
    _, levels = measure(Exact(TASK), num_samples=10, num=200)
    assert set((levels * 11 - 0.5).round().int().tolist()) == set(range(11))
    again = measure(Exact(TASK), num_samples=10, num=200)[1]
    assert torch.equal(levels, again)


def test_ties_are_broken_at_random_and_repeatably():
    def flat(x):
        return Independent(Uniform(torch.full_like(x, -50.0), 50.0), 1)

    rows, levels = measure(flat, num_samples=100)
    assert stats.kstest(levels.numpy(), "uniform").pvalue > 1e-3
    assert value(rows, "mean_absolute_error") < 0.03
    assert torch.equal(levels, measure(flat, num_samples=100)[1])


def test_broken_densities_are_never_covered():
    class Broken(nn.Module):
        def forward(self, x):
            q = Exact(TASK)(x)
            q.log_prob = lambda theta: torch.full(theta.shape[:-1], torch.nan)
            return q

    rows, levels = measure(Broken(), num=20)
    assert levels.isnan().all()
    assert value(rows, "signed_area") == pytest.approx(-0.5)
    assert value(rows, "nonfinite_fraction") == 1
    assert value(measure(Exact(TASK), num=20)[0], "nonfinite_fraction") == 0


def test_summary_by_hand():
    levels = np.array([0.0, 0.5, 1.0])
    got = coverage_summary(levels, np.array([0.0, 0.7, 1.0]))
    assert got["signed_area"] == pytest.approx(0.1)  # two triangles of height 0.2
    assert got["mean_absolute_error"] == pytest.approx(0.2 / 3)
    assert coverage_summary(levels, np.array([0.0, 0.3, 1.0]))["signed_area"] == pytest.approx(-0.1)


def test_curve_by_hand():
    curve = coverage_curve(torch.tensor([0.1, 0.4, 0.4, 0.9]), np.array([0.0, 0.25, 0.5, 1.0]))
    assert curve.tolist() == [0, 0.25, 0.75, 1]


@pytest.mark.parametrize("wrong", [{"num_samples": 0}, {"num_levels": 0}])
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Coverage(**wrong)
