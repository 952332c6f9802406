"""Likelihoods and ratios in an audit: weights on prior draws, looked at as parameters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

import robust_npe as rn
from robust_npe.adapters import PriorDrawsPosterior
from robust_npe.random import draws_from, stream
from tests.auditing.common import PRIOR, QUICK, WEAK


class Likelihood(nn.Module):
    """The density of x given theta, as NLE would learn it: x ~ N(theta, 0.5)."""

    def forward(self, theta, x):
        return Normal(theta, 0.5).log_prob(x).sum(-1)


def weighted(num_draws):
    return PriorDrawsPosterior(Likelihood(), Likelihood.forward, PRIOR, num_draws)


def exact(x):
    return Independent(Normal(0.8 * x, 0.2**0.5), 1)


def simulate(theta):
    return theta + 0.5 * torch.randn(theta.shape)


def audited(posterior, x, theta):
    few = replace(QUICK, num_samples=1000, num_simulations=60, num_held_out=40)
    known = {"simulator": simulate, "prior": PRIOR, "method": WEAK, "settings": few}
    return rn.audit(posterior, x, theta, epsilon=0.4, epsilon_unit="absolute", **known)


def test_tables_are_those_of_the_density_over_parameters(tmp_path):
    theta = torch.tensor([[0.3, -0.5], [0.6, 0.2]])
    with draws_from(stream(0)):
        x = simulate(theta)
    found, exactly = (audited(q, x, theta) for q in (weighted(8000), exact))
    for name, columns, error in (
        ("attacks", ["kl_forward", "mean_shift", "nll"], 0.05),
        ("posterior", ["mean", "sd"], 0.05),
    ):
        for attack in ("none", "pgd"):
            tables = [report.tables[name] for report in (found, exactly)]
            one, other = (t.loc[t.attack == attack, columns].to_numpy() for t in tables)
            assert one == pytest.approx(other, abs=error, rel=0.1)
    radii, others = (report.tables["minimal_radius"].radius for report in (found, exactly))
    assert radii.tolist() == pytest.approx(others.tolist(), rel=0.05)
    shares = found.tables["sensitivity"].share  # the information is isotropic here
    assert shares.tolist() == pytest.approx([0.5] * 4, abs=0.15)
    clean, other = (report.findings.clean for report in (found, exactly))
    assert clean["nll"] == pytest.approx(other["nll"], abs=0.05)
    assert clean["coverage_error"] == pytest.approx(other["coverage_error"], abs=0.05)
    assert clean["leakage"] == 0
    found.save(tmp_path)


def test_how_many_draws_carry_the_posterior_is_told():
    x = torch.tensor([[0.5, 2.5]])
    report = audited(weighted(300), x, None)
    draws = report.tables["attacks"].effective_draws
    expected = 1 / weighted(300)(x).probs.square().sum()
    assert draws[0] == pytest.approx(expected.item(), rel=1e-4)
    assert "carry it at x (effective sample size, median" in report.about["Prior draws"]
    assert "too few to believe it" in report.verdict


def test_divergences_survive_probabilities_that_are_too_small_to_hold():
    net = weighted(5000)
    x = torch.tensor([[3.0, 3.0]])
    p, q = net(10 * x), net(10 * x + 0.01)
    assert (p.probs == 0).any()
    logs = [d.logits.double() for d in (p, q)]
    expected = (logs[0].exp() * (logs[0] - logs[1])).sum(-1)
    torch.testing.assert_close(kl_divergence(p, q).double(), expected, rtol=1e-3, atol=1e-6)
    assert expected > 0
