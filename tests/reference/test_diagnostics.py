from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from robust_npe.random import stream
from robust_npe.reference import effective_size, nested_rhat, pareto_k


def test_effective_size():
    assert effective_size(torch.zeros(50)) == pytest.approx(50)
    assert effective_size(torch.tensor([0.0, -math.inf, 0.0])) == pytest.approx(2)
    assert effective_size(torch.tensor([1000.0, 0.0])) == pytest.approx(1)
    assert effective_size(torch.full((3,), -math.inf)) == 0


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9, 1.5])
def test_pareto_k_of_pareto_weights(k):
    weights = stats.genpareto.rvs(k, size=20_000, random_state=0)
    assert pareto_k(torch.from_numpy(weights).log()) == pytest.approx(k, abs=0.12)


def test_pareto_k_of_a_proposal_that_is_too_narrow():
    # target N(0, 1), proposal N(0, s^2): the weights have a tail of index k = 1 - s^2
    z = torch.randn(50_000, generator=stream(0), dtype=torch.float64)
    for s, low, high in ((0.4, 0.65, 1.0), (1.5, -5.0, 0.3)):
        log_weights = -0.5 * (s * z) ** 2 + 0.5 * z**2
        assert low < pareto_k(log_weights) < high


def test_pareto_k_where_there_is_no_tail():
    assert pareto_k(torch.zeros(1000)) == 0
    few = torch.full((1000,), -math.inf)
    few[:3] = 0
    assert pareto_k(few) == math.inf


def test_rhat_of_ensembles_that_agree_and_of_ones_stuck_in_a_mode():
    chains = torch.randn(4, 100, 10, 2, generator=stream(0))
    assert 1 <= nested_rhat(chains) < 1.01
    stuck = chains.clone()
    stuck[0, ..., 1] += 2
    assert nested_rhat(stuck) > 1.1
    drifting = chains + torch.linspace(0, 2, 100)[:, None, None]
    assert nested_rhat(drifting) > 1.1
