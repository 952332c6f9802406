"""How well medians and means are known: on simulated data, where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from robust_npe.metrics.summary import mean_interval, median_interval, median_sd, summary_rows

RANDOM = np.random.default_rng(0)


def lognormal(*shape):
    return torch.from_numpy(RANDOM.lognormal(sigma=1.0, size=shape))


@pytest.mark.parametrize("num", [6, 51, 200])
def test_intervals_of_the_median_cover_it_as_often_as_they_say(num):
    samples = lognormal(2000, num).sort(dim=-1).values
    low, high = torch.tensor([median_interval(s) for s in samples]).unbind(-1)
    covered = float(((low <= 1) & (high >= 1)).double().mean())
    assert covered > 0.95 - 3 * (0.95 * 0.05 / 2000) ** 0.5
    assert covered < (0.98 if num > 6 else 0.99)  # as narrow as order statistics can be


def test_intervals_of_the_mean_cover_it_as_often_as_they_say():
    samples = lognormal(400, 200)
    low, high = torch.tensor([mean_interval(s) for s in samples]).unbind(-1)
    truth = math.exp(0.5)
    # skewed data: percentiles of the bootstrap cover a little less than they say
    assert 0.88 < float(((low <= truth) & (high >= truth)).double().mean()) < 0.97


@pytest.mark.parametrize("num", [51, 200])
def test_sd_of_the_median_is_that_of_many_resamples(num):
    (sample,) = lognormal(1, num).sort(dim=-1).values
    resamples = sample.numpy()[RANDOM.integers(num, size=(20_000, num))]
    expected = np.median(resamples, axis=1).std()
    assert median_sd(sample) == pytest.approx(expected, rel=0.05)


def test_sd_of_the_median_predicts_its_spread_over_fresh_data():
    samples = lognormal(1000, 512).sort(dim=-1).values
    predicted = np.mean([median_sd(s) for s in samples])
    assert predicted == pytest.approx(float(samples.median(dim=-1).values.std()), rel=0.1)


def rows(values):
    return {r["statistic"]: r["value"] for r in summary_rows(torch.tensor(values))}


def test_values_that_are_not_finite():
    found = rows([*range(1, 20), math.inf, math.nan])
    assert (found["median_low"], found["median_high"]) == (6, 15)  # numpy's table: n = 20
    assert found["mean_high"] == math.inf
    assert found["num_observations"] == 20
    assert found["median_spread"] > 0
    mostly = rows([1.0] + [math.inf] * 20)
    assert (mostly["median_low"], mostly["median_high"]) == (math.inf, math.inf)
    assert math.isnan(mostly["median_spread"])


def test_too_few_values_say_nothing_of_themselves():
    found = rows([1.0, 2.0, 3.0, 4.0, 5.0])
    assert math.isnan(found["median_low"])
    assert math.isnan(found["median_high"])
    single = rows([1.0])
    assert all(math.isnan(single[name]) for name in ("mean_low", "mean_high", "median_spread"))
    assert math.isnan(rows([0.0] * 9)["median_spread"])  # relative to zero


def test_intervals_do_not_depend_on_the_order_and_are_repeatable():
    values = lognormal(300).tolist()
    assert rows(values) == rows(values[::-1])
