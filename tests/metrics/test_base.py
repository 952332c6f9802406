from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from robust_npe.metrics.base import Context, batched, kl_measurements, summary_rows
from tests.helpers import Exact, linear_task, pairs

HOW_WELL_KNOWN = ("median_low", "median_high", "mean_low", "mean_high", "median_spread")


def summary(values):
    """Statistics but those of `test_summary`."""
    rows = summary_rows(torch.tensor(values))
    assert all(set(row) == {"statistic", "level", "value"} for row in rows)
    assert all(row["level"] is None for row in rows)
    found = {row["statistic"]: row["value"] for row in rows}
    assert set(HOW_WELL_KNOWN) <= set(found)
    assert found.pop("num_observations") == sum(v > -math.inf for v in values)
    return {k: v for k, v in found.items() if k not in HOW_WELL_KNOWN}


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


def test_infinite_values_are_the_largest():
    # the finite ones alone would give 2.5, 1.45 and 3.55, as if the posterior moved less
    got = summary([1.0, math.inf, 3.0, math.inf, 2.0, 4.0, math.inf])
    expected = {"median": 4.0, "q15": 1.9, "q85": math.inf, "mean": math.inf}
    assert got == pytest.approx(expected | {"nonfinite_fraction": 3 / 7})


@pytest.mark.parametrize(
    ("values", "median"),
    [
        ([1.0, 2.0, math.inf], 2.0),  # at an order statistic: no interpolation
        ([1.0, 2.0, math.inf, math.inf], math.inf),  # half way to infinity
        ([1.0, math.inf, math.inf], math.inf),  # between infinities
    ],
)
def test_medians_beside_infinity(values, median):
    assert summary(values)["median"] == median


def test_missing_values_are_left_out_and_counted():
    got = summary([1.0, math.nan, 3.0, -math.inf, 2.0, 4.0, 5.0])
    expected = summary([1.0, 3.0, 2.0, 4.0, 5.0])
    assert got.pop("nonfinite_fraction") == pytest.approx(2 / 7)
    assert expected.pop("nonfinite_fraction") == 0
    assert got == expected


def test_nothing_is_said_where_more_than_half_are_missing():
    assert summary([math.nan, 1.0, 2.0, math.nan])["median"] == 1.5
    got = summary([math.nan, 1.0, math.inf, math.nan, math.nan])
    assert got.pop("nonfinite_fraction") == 0.8
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


def median_error(context, values, errors):
    pairs = torch.stack((torch.as_tensor(values), torch.as_tensor(errors)), dim=1)
    measured, each = kl_measurements(context, {"kl": pairs})
    assert (measured.metric, each.metric) == ("kl", "kl_se")
    torch.testing.assert_close(each.per_observation, pairs[:, 1], rtol=0, atol=0, equal_nan=True)
    *rows, error, overlap = measured.rows
    assert str(rows) == str(summary_rows(pairs[:, 0]))  # as text, since nan is not nan
    assert (error["statistic"], overlap["statistic"]) == ("median_se", "no_overlap")
    return error["value"]


@pytest.mark.parametrize(
    ("true", "factor"),
    [
        (np.geomspace(0.1, 10, 201), 1.0),  # observations differ much more than their errors
        (np.array([1.0, 2.0, 4.0, 8.0]), 1.0),  # the median is the mean of two
        (np.zeros(201), 1.155),  # sqrt(4 / 3): the errors of the estimates and those added
    ],
)
def test_error_of_the_median_is_its_spread_in_repetitions(context, true, factor):
    random = np.random.default_rng(0)
    errors = 0.05 * (1 + random.random(len(true)))
    repeated = true + errors * random.standard_normal((4000, len(true)))
    got = [median_error(context, values, errors) for values in repeated[:20]]
    assert np.mean(got) == pytest.approx(factor * np.median(repeated, axis=1).std(), rel=0.1)


def test_error_of_the_median_beside_values_that_are_not_finite(context):
    ones = [1.0] * 5
    assert median_error(context, [1.0, 1.0, 2.0, 2.0, math.inf], [*ones[:4], math.nan]) > 0
    alone = median_error(context, [1.0, 1.0, 2.0, 2.0], ones[:4])
    assert median_error(context, [1.0, 1.0, 2.0, 2.0, math.nan], ones) == alone
    assert math.isnan(median_error(context, [1.0, math.inf, math.inf], ones[:3]))
    assert math.isnan(median_error(context, [1.0, math.nan, math.nan], ones[:3]))
    assert math.isnan(median_error(context, [1.0, 1.0, 1.0], [1.0, math.nan, 1.0]))
    assert median_error(context, [1.0, 2.0, 3.0], [0.0, 0.0, 0.0]) == 0


def test_share_without_overlap(context):
    def share(*values):
        measured, _ = kl_measurements(context, {"kl": torch.tensor([[v, 0.1] for v in values])})
        return measured.rows[-1]["value"]

    assert share(1.0, 29.0, 31.0, math.inf) == 0.5
    assert share(31.0, math.nan, 1.0, -math.inf) == 0.5  # of those that could be computed
    assert math.isnan(share(31.0, math.nan, math.nan))
