"""Paired comparisons, on simulated pairs and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from robust_npe.checks import ConfigError
from robust_npe.comparison import paired, paired_statistics

RANDOM = np.random.default_rng(0)


def pairs(num, factor=1.3, noise=0.1):
    """Observations that differ much more than the two values of each."""
    easy = RANDOM.lognormal(sigma=1.5, size=num)
    a = factor * easy * RANDOM.lognormal(sigma=noise, size=num)
    return torch.from_numpy(a), torch.from_numpy(easy)


def test_statistics_by_hand():
    a, b = torch.tensor([1.0, 2.0, 3.0, 4.0, 9.0]), torch.tensor([1.0, 1.0, 1.0, 8.0, 2.0])
    found = paired_statistics(a, b)
    assert (found["median_a"], found["median_b"], found["ratio"]) == (3, 1, 3)
    assert found["difference"] == 1
    assert found["share_above"] == pytest.approx(3.5 / 5)
    assert found["sign_test"] == pytest.approx(stats.binomtest(3, 4).pvalue)


def test_intervals_cover_the_truth_and_are_narrower_than_unpaired_ones():
    found = [paired_statistics(*pairs(100)) for _ in range(200)]
    ratio = [f["ratio_low"] <= 1.3 <= f["ratio_high"] for f in found]
    assert np.mean(ratio) > 0.92  # a ratio of medians of matched pairs: conservative
    a, b = pairs(100)
    matched = paired_statistics(a, b)
    shuffled = paired_statistics(a, b[torch.randperm(100, generator=torch.Generator())])
    width, unpaired = (f["ratio_high"] / f["ratio_low"] for f in (matched, shuffled))
    assert math.log(width) < 0.5 * math.log(unpaired)
    assert matched["sign_test"] < 1e-6 < shuffled["sign_test"]


def test_the_sign_test_is_uniform_where_there_is_no_difference():
    p = np.array([paired_statistics(*pairs(60, factor=1.0))["sign_test"] for _ in range(300)])
    assert np.mean(p <= 0.05) < 0.09
    assert np.mean(p <= 0.5) > 0.3


def test_missing_and_infinite_values():
    a = torch.tensor([1.0, math.nan, math.inf, math.inf, 2.0])
    b = torch.tensor([2.0, 1.0, 1.0, math.inf, -math.inf])
    found = paired_statistics(a, b)
    assert found["num_observations"] == 3
    assert (found["median_a"], found["median_b"]) == (math.inf, 2)
    assert found["share_above"] == pytest.approx(0.5)
    nothing = paired_statistics(a[1:2], b[1:2])
    assert math.isnan(nothing["ratio"])
    assert nothing["sign_test"] == 1


def observations(run, values, epsilons=(0.5, 1.0), **columns):
    shared = {"task": "sir", "data_seed": 0, "norm": "l2", "epsilon_unit": "std", "attack": "pgd"}
    return [
        {**shared, **columns, "run_id": run, "metric": "kl_forward", "epsilon": epsilon}
        | {"observation": i, "value": epsilon * v}
        for epsilon in epsilons
        for i, v in enumerate(values)
    ]


def test_rows_at_the_shared_radii_and_of_the_shared_observations():
    one = observations("a", [2.0, 4.0, 6.0, 8.0])
    other = observations("b", [1.0, 2.0, 3.0], epsilons=(1.0, 2.0))
    found = paired(pd.DataFrame(one + other), "kl_forward", "a", "b")
    assert found.epsilon.tolist() == [1.0]
    assert found.num_observations.tolist() == [3]
    assert found.ratio.tolist() == found.difference.tolist() == [2]


@pytest.mark.parametrize(
    "changes", [{"task": "gl"}, {"data_seed": 1}, {"norm": "linf"}, {"epsilon_unit": "absolute"}]
)
def test_runs_on_different_observations_are_refused(changes):
    table = pd.DataFrame(observations("a", [1.0, 2.0]) + observations("b", [1.0, 2.0], **changes))
    with pytest.raises(ConfigError, match=f"their {next(iter(changes))} differs"):
        paired(table, "kl_forward", "a", "b")


def test_runs_without_a_common_radius_are_refused():
    table = pd.DataFrame(observations("a", [1.0]) + observations("b", [1.0], epsilons=(3.0,)))
    for metric in ("kl_forward", "nll"):
        with pytest.raises(ConfigError, match=f"measured {metric} at a common radius"):
            paired(table, metric, "a", "b")
