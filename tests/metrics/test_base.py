from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from robust_npe.metrics.base import Context, batched, summary_rows
from tests.helpers import Exact, linear_task, pairs


def summary(values):
    rows = summary_rows(torch.tensor(values))
    assert all(set(row) == {"statistic", "level", "value"} for row in rows)
    assert all(row["level"] is None for row in rows)
    return {row["statistic"]: row["value"] for row in rows}


def test_statistics_are_those_of_numpy():
    values = np.random.default_rng(0).gamma(0.5, size=101)
    expected = {
        "median": np.median(values),
        "q15": np.quantile(values, 0.15),
        "q85": np.quantile(values, 0.85),
        "mean": values.mean(),
        "nonfinite_fraction": 0.0,
    }
    assert summary(values) == pytest.approx(expected)


def test_values_that_are_not_finite_are_left_out_and_counted():
    got = summary([1.0, math.inf, 3.0, math.nan, -math.inf, 2.0, 4.0, 5.0])
    expected = summary([1.0, 3.0, 2.0, 4.0, 5.0])
    assert got.pop("nonfinite_fraction") == pytest.approx(3 / 8)
    assert expected.pop("nonfinite_fraction") == 0
    assert got == expected


def test_nothing_finite_at_all():
    got = summary([math.nan, math.inf])
    assert got.pop("nonfinite_fraction") == 1
    assert all(math.isnan(v) for v in got.values())


def test_summaries_are_in_double_precision():
    assert summary([1e8, 1e8 + 1.0, 1e8 + 2.0])["mean"] == pytest.approx(1e8 + 1, abs=9)
    assert isinstance(summary([1.0])["mean"], float)


@pytest.fixture
def context():
    task = linear_task()
    theta, x = pairs(task, 50)
    return Context(task, Exact(task), theta, x, x + 1, True, seed=3, batch_size=7)


def test_batches_are_concatenated_in_order_without_graph(context):
    sizes = []

    def function(theta, x, x_adv):
        sizes.append(len(x))
        assert not torch.is_grad_enabled()
        return theta[:, 0] + 10 * x[:, 1] + 100 * x_adv[:, 0]

    values = batched(context, function)
    assert sizes == [7] * 7 + [1]
    expected = context.theta[:, 0] + 10 * context.x[:, 1] + 100 * context.x_adv[:, 0]
    assert torch.equal(values, expected)


def test_random_streams_belong_to_seed_and_purpose(context):
    def draw(context, purpose):
        return float(torch.rand((), generator=context.generator(purpose)))

    other = Context(context.task, context.posterior, *[context.x] * 3, False, seed=4)
    assert draw(context, "a") == draw(context, "a")
    assert len({draw(context, "a"), draw(context, "b"), draw(other, "a")}) == 3
