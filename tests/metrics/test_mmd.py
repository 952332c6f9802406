from __future__ import annotations

import pytest
import torch

from robust_npe.metrics import MMD, Context, mmd
from robust_npe.random import stream
from tests.helpers import Exact, linear_task, pairs
from tests.metrics.test_two_sample import WithReferences


def gaussian(num, mean=0.0, seed=0, batch=()):
    return mean + torch.randn(*batch, num, 2, generator=stream(seed), dtype=torch.float64)


def by_hand(p, q):
    """The definition, pair by pair, with the median over pairs of different samples."""
    p, q = ((v - p.mean(0)) / p.std(0) for v in (p, q))
    both = torch.cat((p, q))
    squares = torch.tensor([[float((a - b).square().sum()) for b in both] for a in both])
    off = [squares[i, j] for i in range(len(both)) for j in range(i + 1, len(both))]
    k = torch.exp(-squares / (2 * torch.tensor(off).median()))
    n, m = len(p), len(q)
    pp = sum(k[i, j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    qq = sum(k[n + i, n + j] for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return float(pp + qq - 2 * k[:n, n:].mean())


def test_definition():
    p, q = gaussian(7), gaussian(5, 1.0, seed=1)
    assert float(mmd(p, q)) == pytest.approx(by_hand(p, q), abs=1e-6)


def test_unbiased_for_equal_distributions_and_large_for_disjoint_ones():
    p, q = gaussian(30, batch=(300,)), gaussian(30, seed=1, batch=(300,))
    values = mmd(p, q)
    assert values.shape == (300,)
    assert abs(float(values.mean())) < 4 * float(values.std()) / 300**0.5
    assert float(mmd(gaussian(50), gaussian(50, 30.0, seed=1))) > 0.5


def test_units_do_not_matter():
    p, q, unit = gaussian(40), gaussian(40, 1.0, seed=1), torch.tensor([1e4, 1e-3])
    assert float(mmd(p * unit, q * unit)) == pytest.approx(float(mmd(p, q)), rel=1e-9)


def test_unbiased_for_equal_distributions_of_unequal_sizes():
    p, q = gaussian(100, batch=(200,)), gaussian(10, seed=1, batch=(200,))
    for values in (mmd(p, q), mmd(q, p)):
        assert abs(float(values.mean())) < 4 * float(values.std()) / 200**0.5


def test_a_constant_dimension_tells_nothing_unless_it_differs():
    p, q = gaussian(50), gaussian(50, 1.0, seed=1)
    same, other = torch.full((50, 1), 0.1), torch.full((50, 1), 0.2)
    expected = float(mmd(p[:, :1], q[:, :1]))
    one_more = [torch.cat((v[:, :1], same), dim=1) for v in (p, q)]
    assert float(mmd(*one_more)) == pytest.approx(expected, abs=1e-9)
    assert float(mmd(one_more[0], torch.cat((q[:, :1], other), dim=1))) > expected + 0.1
    assert float(mmd(same, same)) == 0


def test_infinite_samples_are_far_away_and_nan_is_nan():
    p, q = gaussian(200), gaussian(200, seed=1)
    broken = q.clone()
    broken[3, 1] = torch.inf
    assert float(mmd(p, broken)) == pytest.approx(float(mmd(p, q)), abs=1e-3)
    assert float(mmd(broken, p)) == pytest.approx(float(mmd(q, p)), abs=1e-3)
    broken[3, 1] = torch.nan
    assert mmd(torch.stack((p, p)), torch.stack((broken, q))).isnan().tolist() == [True, False]


def context(task, estimator, attacked, move=1.0):
    theta, x = pairs(task, 40)
    x_adv = x + move if attacked else x
    return Context(task, estimator, theta, x, x_adv, attacked, 0, 16)


def test_sensitivity_on_attacked_data():
    task = linear_task()
    (measurement,) = MMD(100)(context(task, Exact(task), True))
    assert measurement.metric == "mmd"
    assert measurement.per_observation.shape == (40,)
    assert float(measurement.per_observation.min()) > 0.2
    (still,) = MMD(100)(context(task, Exact(task), True, move=0.0))
    assert float(still.per_observation.abs().mean()) < 0.02


def test_references_on_clean_data():
    task = WithReferences((1.0, -0.5), 0.3)
    (right,) = MMD(100)(context(task, Exact(task), False))
    (wrong,) = MMD(100)(context(task, Exact(task, shift=10.0), False))
    assert right.metric == "mmd_reference"
    assert [r["level"] for r in right.rows] == [1.0, 2.0, 3.0, None]
    assert abs(right.rows[-1]["value"]) < 0.05 < wrong.rows[-1]["value"]
    assert MMD(100, num_references=0)(context(task, Exact(task), False)) == []
    assert MMD(100)(context(linear_task(), Exact(linear_task()), False)) == []


@pytest.mark.parametrize("wrong", [{"num_samples": 1}, {"num_references": -1}])
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MMD(**wrong)
