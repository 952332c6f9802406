from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy.stats import kstest
from torch import nn

from robust_npe.attacks import make_ball
from robust_npe.auditing import Case
from robust_npe.auditing.typicality import ALL, COMBINED, p_values, typicality
from robust_npe.random import draws_from, stream
from tests.auditing.common import DESIGN, NOISE, QUICK, exact, pairs, task

SETTINGS = replace(QUICK, num_simulations=1000, num_held_out=1000, flow=True)


class Summarising(nn.Module):
    """An exact posterior whose embedding keeps the sufficient statistics."""

    embedding = "of its own"

    def forward(self, x):
        return exact(x)

    def context(self, x):
        return x @ DESIGN.mT


def case(x, posterior=exact, scale=1.0):
    held_out, reference = pairs(1000, seed=2), pairs(1000, seed=1)[1]
    held_out = held_out[0], scale * held_out[1]
    given = scale * x, None, task(), scale * reference, held_out
    return Case(posterior, *given, [1.0], lambda e: make_ball("l2", e), "units of x")


@pytest.fixture(scope="module")
def tables():
    x = pairs(200, seed=3)[1]
    return {shift: typicality(case(x + shift * NOISE), SETTINGS) for shift in (0, 5)}


def test_p_values_of_typical_observations_are_uniform(tables):
    single = tables[0][tables[0].observation != ALL]
    assert set(single.check) == {"mahalanobis", "mmd", "flow", COMBINED}
    for _, part in single.groupby("check"):
        assert len(part) == 200
        assert kstest(part.p_value, "uniform").pvalue > 0.01
    together = tables[0][tables[0].observation == ALL]
    assert (together.p_value > 0.01).all()


def test_a_shift_by_five_noise_standard_deviations_is_seen(tables):
    single = tables[5][tables[5].observation != ALL]
    for _, part in single.groupby("check"):
        assert (part.p_value < 0.01).mean() >= 0.95
    together = tables[5][tables[5].observation == ALL]
    assert (together.p_value == 1e-3).all()  # the smallest of 1000 permutations


def test_a_summary_of_the_posterior_is_looked_at_too():
    x = pairs(50, seed=3)[1]
    quick = replace(SETTINGS, flow=False)
    aside = torch.linalg.svd(DESIGN).Vh[-1]  # the summary does not see it
    table = typicality(case(x + 5 * NOISE * aside, Summarising()), quick)
    small = table[table.observation != ALL].groupby(["space", "check"]).p_value.median()
    assert small["data", "mahalanobis"] < 0.01
    assert small["embedding", "mahalanobis"] > 0.2
    along = torch.linalg.svd(DESIGN).Vh[0] * 12
    table = typicality(case(x + along, Summarising()), quick)
    small = table[table.observation != ALL].groupby(["space", "check"]).p_value.median()
    assert small["embedding", "mahalanobis"] < 0.01
    assert small["embedding", "mmd"] < 0.01


@pytest.mark.parametrize("scale", [1e-9, 1e6])
def test_units_do_not_matter(scale):
    quick = replace(QUICK, num_simulations=1000, num_held_out=1000)
    x = pairs(5, seed=3)[1]
    one, other = (typicality(case(x, scale=s), quick) for s in (1.0, scale))
    assert other.p_value.tolist() == pytest.approx(one.p_value.tolist(), abs=2e-3)


def test_features_that_never_vary_or_are_many():
    x = torch.cat([pairs(4, seed=3)[1], torch.full((4, 1), 7.0)], 1)
    x[3, -1] = 7.1
    wide = case(x[:, :-1])
    reference, held = (
        torch.cat([rows, rows.new_full((len(rows), 1), 7.0)], 1)
        for rows in (wide.reference, wide.held_out[1])
    )
    constant = replace(wide, x=x, task=None, reference=reference, held_out=(None, held))
    table = typicality(constant, SETTINGS)
    combined = table[table.check == COMBINED].p_value.tolist()
    assert combined[3] < 0.01
    assert min(combined[:3]) > 0.01
    wide, held = (torch.randn(n, 50, generator=stream(0, "x", n)) for n in (60, 99))
    few = replace(constant, reference=wide, held_out=(None, held), x=torch.full((1, 50), 9.0))
    found = typicality(few, replace(QUICK, flow=False))
    assert found[found.check == "mahalanobis"].p_value.item() == 0.01


def test_p_values_count_ties_against_a_finding():
    held = torch.tensor([1.0, 2.0, 2.0, 3.0])
    assert p_values(torch.tensor([0.0, 2.0, 3.0, 4.0]), held).tolist() == [1.0, 0.8, 0.4, 0.2]


def test_extreme_values_cost_power_and_nothing_else():
    x = torch.distributions.Cauchy(0.0, 1.0)
    with draws_from(stream(0, "cauchy")):
        rows, held, more = (1e3 * x.sample((n, 3)) for n in (300, 400, 60))
    heavy = replace(case(pairs(2)[1]), x=more, task=None, reference=rows, held_out=(None, held))
    table = typicality(heavy, SETTINGS)
    single = table[(table.observation != ALL) & (table.check == "mahalanobis")]
    assert kstest(single.p_value, "uniform").pvalue > 0.01


def test_without_simulations_nothing_is_said():
    bare = replace(case(pairs(2)[1]), reference=None, held_out=None)
    assert typicality(bare, QUICK).empty
