from __future__ import annotations

import math

import pytest
import torch

from robust_npe.discrepancy import z_scored
from robust_npe.metrics import C2ST, Context, c2st, two_sample
from robust_npe.random import draws_from, stream
from robust_npe.tasks.base import Reference
from tests.helpers import Exact, linear_task, pairs


def gaussian(num, mean=0.0, seed=0):
    return mean + torch.randn(num, 2, generator=stream(seed))


def test_equal_distributions_are_at_chance_and_disjoint_ones_at_one():
    assert c2st(gaussian(200), gaussian(200, seed=1)) == pytest.approx(0.5, abs=0.1)
    assert c2st(gaussian(200), gaussian(200, mean=20.0, seed=1)) == 1.0


def test_shifted_gaussians_are_told_apart_as_well_as_possible():
    # the best classifier splits half way: accuracy Phi(d/2) at distance d
    distance = 2.0
    best = float(torch.special.ndtr(torch.tensor(distance / 2)))
    shifted = gaussian(500, seed=1) + torch.tensor([distance, 0.0])
    assert c2st(gaussian(500), shifted) == pytest.approx(best, abs=0.05)


@pytest.mark.parametrize(("num_p", "num_q"), [(500, 50), (50, 500)])
def test_equal_distributions_of_unequal_sizes_are_at_chance(num_p, num_q):
    # guessing the larger side would be right in 91 % of the cases
    assert c2st(gaussian(num_p), gaussian(num_q, seed=1)) == pytest.approx(0.5, abs=0.15)


def with_second(samples, value):
    return torch.stack((samples[:, 0], torch.full((len(samples),), value)), dim=1)


def test_a_constant_dimension_tells_nothing_unless_it_differs():
    p, q = gaussian(200), gaussian(200, seed=1)
    assert c2st(with_second(p, 0.1), with_second(q, 0.1)) == pytest.approx(0.5, abs=0.1)
    assert c2st(with_second(p, 0.1), with_second(q, 0.2)) == 1
    assert c2st(with_second(p, 0.1), q) > 0.95


def test_samples_that_are_far_or_infinite_or_nan():
    p, q = gaussian(200), gaussian(200, seed=1)
    assert c2st(p, q + 1e12) == 1
    broken = q.clone()
    broken[3, 1] = torch.inf
    for pair in ((p, broken), (broken, p)):
        assert c2st(*pair) == pytest.approx(0.5, abs=0.1)
    assert c2st(p, torch.full_like(q, torch.inf)) == 1
    broken[3, 1] = torch.nan
    assert math.isnan(c2st(p, broken))


def test_z_scores_are_those_of_the_finite_samples_of_the_first_set():
    p, q = gaussian(50).double(), gaussian(30, 5.0, seed=1).double()
    broken = torch.cat((p, torch.full((2, 2), torch.inf)))
    for got, samples in zip(z_scored(broken, q), (p, q), strict=True):
        expected = (samples - p.mean(0)) / p.std(0)
        torch.testing.assert_close(got[: len(samples)], expected)
    assert (z_scored(broken, q)[0][50:] == 100).all()
    small = 1e-15 * p  # no unit is too small
    torch.testing.assert_close(z_scored(small, small)[0], (p - p.mean(0)) / p.std(0))


def test_units_do_not_matter_and_the_seed_decides():
    p, q, unit = gaussian(40), gaussian(40, 2.0, seed=1), torch.tensor([1e4, 1e-3])
    assert c2st(p * unit, q * unit) == pytest.approx(c2st(p, q), abs=0.02)
    assert c2st(p, q, seed=3) == c2st(p, q, seed=3)


class WithReferences(type(linear_task())):
    num_references = 3
    available = 100

    def reference(self, i):
        theta, x = pairs(self, 3, seed=5)
        with draws_from(stream(i, "reference")):
            samples = self.true_posterior(x[i - 1]).sample((self.available,))
        return Reference(x[i - 1], theta[i - 1], samples)


def measure(estimator, task, num_samples=100, attacked=False, num_references=10):
    x = torch.zeros(1, 2)
    c = Context(task, estimator, x, x, x, attacked, 0)
    return C2ST(num_references, num_samples)(c)


@pytest.fixture
def compared(monkeypatch):
    """Pairs of samples that are handed to the classifier, which is slow."""
    pairs_seen = []

    def fake(p, q):
        pairs_seen.append((p, q))
        return 0.5 + 0.1 * len(pairs_seen)

    monkeypatch.setattr(two_sample, "c2st", fake)
    return pairs_seen


def test_one_row_per_reference_observation_and_their_mean(compared):
    task = WithReferences((1.0, -0.5), 0.3)
    (measurement,) = measure(Exact(task, shift=3.0), task)
    assert measurement.metric == "c2st"
    assert [r["level"] for r in measurement.rows] == [1.0, 2.0, 3.0, None]
    assert [r["value"] for r in measurement.rows] == pytest.approx([0.6, 0.7, 0.8, 0.7])
    for i, (p, q) in enumerate(compared, start=1):
        assert torch.equal(p, task.reference(i).samples)
        exact = task.true_posterior(task.reference(i).x)
        standardised = (q - 3.0 - exact.mean) / exact.stddev
        assert standardised.mean(0) == pytest.approx(torch.zeros(2), abs=0.4)
        assert q.std(0) == pytest.approx(exact.stddev, rel=0.3)
    assert len(measure(Exact(task), task, num_references=1)[0].rows) == 2


def test_both_sides_have_equally_many_samples(compared):
    # else always guessing the larger side would beat 0.5
    task = WithReferences((1.0, -0.5), 0.3)
    task.available = 20
    measure(Exact(task), task, num_samples=100)
    measure(Exact(task), task, num_samples=10)
    assert [(len(p), len(q)) for p, q in compared] == [(20, 20)] * 3 + [(10, 10)] * 3


def test_only_on_clean_data_of_tasks_with_references():
    task = WithReferences((1.0, -0.5), 0.3)
    assert measure(Exact(task), task, attacked=True) == []
    assert measure(Exact(linear_task()), linear_task()) == []


@pytest.mark.parametrize("wrong", [{"num_references": 0}, {"num_samples": 9}])
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        C2ST(**wrong)
