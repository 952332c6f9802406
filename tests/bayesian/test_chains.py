"""The sampler against distributions with known moments."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal

from robust_npe.bayesian.chains import ChainSettings, HMCChains
from robust_npe.random import stream
from robust_npe.reference.diagnostics import effective_draws, split_rhat


def sampled(log_density, start, warm_up=150, draws=300, generator=None):
    settings = ChainSettings(warm_up, draws, 2, 8, step_size=0.05, target=0.8)
    chains = HMCChains(log_density, start, settings, generator or stream(1))
    while chains.completed < chains.total:
        chains.step()
    return chains.result()


def test_moments_of_a_gaussian():
    mean = torch.tensor([1.0, -2.0, 0.5])
    covariance = torch.tensor([[1.0, 0.6, 0.0], [0.6, 2.0, -0.3], [0.0, -0.3, 0.5]])
    target = MultivariateNormal(mean, covariance)
    # two tensors, as the layers of a network
    found = sampled(
        lambda s: target.log_prob(torch.cat(s, -1)), [torch.zeros(40, 1), torch.zeros(40, 2)]
    )
    draws = torch.cat(found.draws, -1).double()  # (40, 300, 3)
    deviation = draws - mean
    # chains are independent of each other: their means give standard errors
    for values, expected in (
        (draws.mean(1), mean),
        ((deviation.unsqueeze(-1) * deviation.unsqueeze(-2)).mean(1), covariance),
    ):
        error = values.std(0) / len(values) ** 0.5
        assert ((values.mean(0) - expected).abs() < 3 * error + 1e-9).all()
        assert (error < 0.1).all()
    assert 0.7 < found.acceptance < 0.97  # the averaged step is on the careful side
    assert found.divergent == 0
    expected = target.log_prob(draws[:, -1].float())
    torch.testing.assert_close(found.log_density[:, -1], expected)
    assert float(split_rhat(draws).max()) < 1.02


def test_step_sizes_adapt_to_each_chain():
    scale = torch.tensor([0.01, 1.0]).repeat(10)  # the density is another one in every other chain
    found = sampled(lambda s: -0.5 * (s[0].squeeze(-1) / scale).square(), [torch.zeros(20, 1)])
    ratio = found.step_size[1::2].mean() / found.step_size[::2].mean()
    assert float(ratio) == pytest.approx(100, rel=0.3)
    spread = found.draws[0].std(1).squeeze(-1) / scale
    assert ((spread > 0.8) & (spread < 1.2)).all()


def test_divergences_are_counted_and_never_accepted():
    def cliff(state):  # a normal density that vanishes beyond 1
        x = state[0].squeeze(-1)
        return torch.where(x > 1, -torch.inf, -0.5 * x.square())

    found = sampled(cliff, [torch.zeros(5, 1)], draws=50)
    assert found.divergent > 0.05
    assert float(found.draws[0].max()) <= 1


def test_rhat_and_effective_draws_of_known_chains():
    generator = stream(0)
    noise = torch.randn(4, 1000, 3, generator=generator, dtype=torch.float64)
    correlated = noise.clone()
    for t in range(1, 1000):
        correlated[:, t] = 0.8 * correlated[:, t - 1] + 0.6 * noise[:, t]
    assert (split_rhat(noise) < 1.01).all()
    assert (effective_draws(noise) > 2800).all()
    # of an autoregression: N (1 - rho) / (1 + rho)
    assert effective_draws(correlated).mean() == pytest.approx(4000 / 9, rel=0.25)
    apart = noise + torch.arange(4.0)[:, None, None]
    # between-chain variance 5/3 against 1 within
    assert split_rhat(apart).mean() == pytest.approx((1 + 10 / 7) ** 0.5, rel=0.05)
    assert (effective_draws(apart) < 20).all()
    assert split_rhat(noise[:, :3]).isinf().all()


def test_chains_that_never_move_have_not_converged():
    assert split_rhat(torch.zeros(1, 10, 2)).isinf().all()
