"""SBC and TARP: uniform for the exact posterior, and the same numbers as other code."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.neural_network import MLPClassifier

from robust_npe.metrics import SBC, TARP, Context, c2st, mmd
from robust_npe.metrics.sbc import ranks, uniformity
from robust_npe.random import draws_from, stream
from tests.helpers import Exact, linear_task, pairs

TASK = linear_task()


def context(estimator, num=1000, seed=0, move=0.0):
    theta, x = pairs(TASK, num, seed)
    return Context(TASK, estimator, theta, x, x + move, bool(move), seed, 300)


def measured(metric, *args, **kwargs):
    first, *rest = metric(context(*args, **kwargs))
    rows = {(r["statistic"], r["level"]): r["value"] for r in first.rows}
    return rows, {m.metric: m.per_observation for m in rest}


@pytest.mark.parametrize("metric", [SBC(50), TARP(50)])
def test_exact_posteriors_are_uniform_for_every_seed(metric):
    found = [measured(metric, Exact(TASK), num=300, seed=seed) for seed in range(12)]
    p = np.array([rows["ks_p_value", None] for rows, _ in found])
    assert p.min() > 0.05 / 12 / 10
    for name in found[0][1]:  # together, too: no small bias in the ranks
        together = torch.cat([each[name] for _, each in found])
        assert stats.kstest(together.numpy(), "uniform").pvalue > 1e-3


def test_ranks_of_each_parameter_are_skewed_where_it_is_shifted():
    rows, each = measured(SBC(100), Exact(TASK, shift=torch.tensor([0.0, 0.4])))
    assert rows["ks_p_value", 1.0] > 1e-3
    assert rows["ks_p_value", 2.0] < 1e-6
    # q is shifted up by 0.4: a truth at the median of p has the rank Phi(-0.4 / sd)
    sd = float(TASK.true_posterior(torch.zeros(1, 2)).stddev[0, 1])
    expected = stats.norm.cdf(-0.4 / sd)
    assert float(each["sbc_rank_2"].median()) == pytest.approx(expected, abs=0.05)
    assert rows["ks_distance", None] == rows["ks_distance", 2.0]
    assert rows["ks_p_value", None] == pytest.approx(2 * rows["ks_p_value", 2.0])


@pytest.mark.parametrize(("spread", "sign"), [(0.5, -1), (2.0, 1)])
def test_tarp_tells_narrow_from_wide(spread, sign):
    rows, _ = measured(TARP(100), Exact(TASK, spread=spread))
    assert sign * rows["signed_area", None] > 0.03
    assert rows["ks_p_value", None] < 1e-6


@pytest.mark.parametrize("metric", [SBC(50), TARP(50)])
def test_attacked_observations_are_what_is_judged(metric):
    rows, _ = measured(metric, Exact(TASK), move=1.0)
    assert rows["ks_p_value", None] < 1e-6


def test_tarp_in_closed_form():
    # one parameter, all mass of q at one point far from the unit interval of references: theta is
    # always closer, so that no sample is
    rows, each = measured(TARP(10), Exact(TASK, spread=1e-3, shift=1e3))
    assert float(each["tarp_level"].max()) < 1 / 11
    assert rows["coverage", 0.5] == 1


def test_tarp_by_brute_force():
    c = context(Exact(TASK), num=40)
    _, levels = TARP(30)(c)
    # the same draws, one pair at a time
    generator, points = (c.generator(name) for name in ("tarp", "tarp references"))
    with draws_from(generator):
        samples = Exact(TASK)(c.x).sample((30,))
    reference = torch.rand(40, 2, generator=points)
    low, side = c.theta.amin(0), c.theta.amax(0) - c.theta.amin(0)
    for b in range(40):
        point = low + side * reference[b]
        distance = [float((((s - point) / side) ** 2).sum()) for s in samples[:, b]]
        truth = float((((c.theta[b] - point) / side) ** 2).sum())
        closer = sum(d < truth for d in distance)
        assert closer / 31 <= float(levels.per_observation[b]) <= (closer + 1) / 31


def test_ties_are_broken_at_random_and_missing_samples_are_missing():
    theta = torch.zeros(1000, 1)
    found = ranks(torch.zeros(9, 1000, 1), theta, stream(0))
    assert sorted(set(found.flatten().tolist())) == list(range(10))
    assert uniformity((found + 0.5).flatten() / 10)["ks_distance"] < 0.1
    assert np.isnan(uniformity(torch.tensor([torch.nan]))["ks_p_value"])


@pytest.mark.parametrize("metric", [SBC, TARP])
def test_settings_are_checked(metric):
    with pytest.raises(ValueError, match="num_samples"):
        metric(0)
    with pytest.raises(ValueError, match=r"num_levels=3 .* positive and even"):
        TARP(num_levels=3)


@pytest.fixture
def sbi():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("sbi")
        import sbi.analysis.sbc
        import sbi.utils.metrics

        yield sbi


def test_ranks_are_those_of_sbi(sbi):
    c = context(Exact(TASK), num=120)
    samples = TASK.true_posterior(c.x).mean + torch.randn(60, 120, 2, generator=stream(1))

    class Sampler:
        calls = iter(range(120))

        def sample(self, shape, x, **_):
            return samples[:, next(self.calls)]

    theirs, _ = sbi.analysis.sbc.sbc_on_batch(c.theta, c.x, Sampler(), 60, "marginals")
    ours = ranks(samples, c.theta, stream(0))
    assert torch.equal(ours, theirs.long())
    p = sbi.analysis.sbc.check_uniformity_frequentist(theirs, 60)
    mine = [uniformity((column + 0.5) / 61)["ks_p_value"] for column in ours.unbind(-1)]
    assert p.tolist() == pytest.approx(mine, abs=0.1, rel=0.5)


def test_two_sample_tests_are_those_of_sbi(sbi):
    p = torch.randn(300, 2, generator=stream(0))
    q = torch.randn(300, 2, generator=stream(1)) + torch.tensor([1.0, 0.0])
    network = {"hidden_layer_sizes": (20, 20), "max_iter": 10_000, "solver": "adam"}
    settings = {"seed": 1, "n_folds": 5, "clf_class": MLPClassifier, "clf_kwargs": network}
    theirs = float(np.mean(sbi.utils.metrics.c2st_scores(p, q, **settings)))
    assert c2st(p, q) == pytest.approx(theirs, abs=0.01)
    mean, std = p.mean(0), p.std(0)
    theirs = sbi.utils.metrics.unbiased_mmd_squared((p - mean) / std, (q - mean) / std)
    assert float(mmd(p, q)) == pytest.approx(float(theirs), abs=1e-5)
