from __future__ import annotations

import importlib.util
import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from robust_npe.checks import ConfigError
from robust_npe.metrics import c2st
from robust_npe.random import draws_from, stream
from robust_npe.reference import (
    ImpossibleObservationError,
    ReferenceSettings,
    Target,
    reference_posterior,
)
from robust_npe.reference.importance import Population, adapt
from robust_npe.reference.mcmc import Chains, bridge_evidence, run_chains
from robust_npe.reference.posterior import _importance
from robust_npe.reference.proposals import Amortized, Prior, StudentMixture
from robust_npe.tasks import SBIBM, GaussianLinear
from tests.helpers import make_estimator
from tests.reference.problems import Mute, TwoModes, one_mode

SMALL = ReferenceSettings(num_samples=1000, batch=1000, walkers=40, steps=200)
X = torch.tensor([1.0, 0.3])


def compute(task, x, method="importance", proposals=(), seed=0, **changes):
    settings = ReferenceSettings(**{**vars(SMALL), "method": method, **changes})
    return reference_posterior(task, x, proposals, stream(seed, "reference"), settings)


def evidence(task, x):
    """log p(x) of the linear Gaussian task, in closed form."""
    covariance = torch.diag(task.slopes**2 + task.noise_std**2)
    return float(MultivariateNormal(torch.zeros(task.dim_x).double(), covariance).log_prob(x))


@pytest.mark.parametrize("method", ["importance", "mcmc"])
def test_linear_gaussian_against_its_closed_form(method):
    task = GaussianLinear((1.0, -0.5, 0.02, 2.0), 0.1)
    x = torch.tensor([1.3, 0.2, -0.1, -2.5])
    result = compute(task, x, method, walkers=100, steps=250)
    p = task.true_posterior(x.double())
    assert result.converged
    assert result.method == method
    assert result.diagnostic == {"importance": "pareto_k", "mcmc": "rhat"}[method]
    assert (result.samples.mean(0) - p.mean).abs().div(p.stddev).max() < 0.2
    torch.testing.assert_close(result.samples.std(0).double(), p.stddev, rtol=0.12, atol=0)
    assert result.log_evidence == pytest.approx(evidence(task, x.double()), abs=0.05)
    exact = p.log_prob(result.theta.double())
    typical = result.weights > 0.1 / len(result.weights)
    torch.testing.assert_close(result.log_prob[typical], exact[typical], atol=0.08, rtol=0)
    entropy = -result.expectation(result.log_prob)
    assert entropy == pytest.approx(float(p.entropy()), abs=0.15)


def test_closed_form_is_taken_where_there_is_one():
    task = GaussianLinear()
    x = task.simulate(torch.zeros(1, 10), stream(0))[0]
    result = compute(task, x, "auto")
    assert (result.method, result.evaluations, result.converged) == ("exact", 0, True)
    p = task.true_posterior(x)
    assert (result.samples.mean(0) - p.mean).abs().div(p.stddev).max() < 0.2
    with pytest.raises(ConfigError, match=r"reference.method='exact' .* two_modes"):
        compute(TwoModes(), X, "exact")


@pytest.mark.parametrize("method", ["importance", "mcmc"])
def test_both_modes_with_their_masses(method):
    task = TwoModes()
    result = compute(task, X, method, [one_mode(X)], walkers=200, steps=150)
    assert result.converged
    assert float((result.samples[:, 0] > 0).float().mean()) == pytest.approx(0.5, abs=0.06)
    assert result.log_evidence == pytest.approx(task.log_evidence, abs=0.06)
    with draws_from(stream(1)):
        exact = task.posterior(X).sample((1000,))
    assert c2st(exact, result.samples) < 0.55


def planted(x, shares, proposals):
    """Importance samples of two modes from proposals that are not adapted."""
    target = Target(TwoModes(), x)
    start = [Prior(target)]
    mixture = Amortized(one_mode(x), target)
    settings = ReferenceSettings(num_samples=1000, batch=2000, max_evaluations=2000)
    adapted = type("Planted", (), {"mixture": mixture, "z": None})()
    return _importance(target, start[:proposals], adapted, settings, stream(0))


def test_missed_mode_is_flagged():
    # 20 % of the draws come from the prior; few of them hit the other mode and weigh a lot
    result = planted(torch.tensor([1.9, 0.3]), 0.2, 1)
    assert not result.converged
    assert result.ess < 400


def test_missed_mode_is_found_by_adaptation():
    target = Target(TwoModes(), X)
    start = [Prior(target), Amortized(one_mode(X), target)]
    adapted = adapt(target, start, 1000, 20, 0.2, stream(0))
    theta = target.to_theta(adapted.z)[0]
    assert float((theta[:, 0] > 0).double().mean()) == pytest.approx(0.5, abs=0.1)


def test_chains_stuck_in_separate_modes_are_flagged():
    target = Target(TwoModes(), X)
    centre = target.to_z(torch.tensor([[1.0, 0.3], [-1.0, 0.3]]))
    jitter = 0.01 * torch.randn(400, 2, generator=stream(0)).double()
    starts = [centre[0] + jitter, centre[1] + jitter]
    chains = [run_chains(target, z, 20, 100, stream(i), ensembles=1) for i, z in enumerate(starts)]
    from robust_npe.reference import nested_rhat

    stacked = torch.stack([c.z.reshape(50, 20, 2) for c in chains])
    assert nested_rhat(stacked) > 1.5


def test_importance_that_fails_hands_over_to_mcmc():
    result = compute(TwoModes(), X, "auto", max_evaluations=100)
    assert result.method == "mcmc"
    assert result.converged


def test_same_seed_same_samples():
    for method in ("importance", "mcmc"):
        a, b, c = (
            compute(TwoModes(), X, method, seed=s, steps=10, max_rounds=2) for s in (0, 0, 1)
        )
        assert torch.equal(a.samples, b.samples)
        assert not torch.equal(a.samples, c.samples)


def test_untrained_estimator_as_proposal_does_no_harm():
    from robust_npe.estimators import MAF

    q = make_estimator(MAF, dim_x=2)(X.unsqueeze(0))
    assert compute(TwoModes(), X, proposals=[q]).converged


@pytest.mark.parametrize("support", ["real", "box", "positive"])
def test_proposals_are_normalised_in_z(support):
    from tests.helpers import prior

    class Flat(Mute):
        def log_likelihood(self, theta, x):
            return torch.zeros(len(theta))

    task = Flat()
    task.prior = prior(support, dim=1)
    target = Target(task, torch.zeros(1))
    edges = torch.linspace(-30, 30, 60_001).double()[:, None]
    for proposal in (
        Prior(target),
        StudentMixture.fit(Prior(target).sample(500, stream(0)), stream(0), 500),
    ):
        mass = torch.trapezoid(proposal.log_prob(edges).exp(), edges[:, 0])
        assert float(mass) == pytest.approx(1, abs=0.01)
        z = proposal.sample(4000, stream(1))[:, 0]
        below = torch.trapezoid(proposal.log_prob(edges[:30_001]).exp(), edges[:30_001, 0])
        assert float((z < 0).double().mean()) == pytest.approx(float(below), abs=0.03)
    # the likelihood is one everywhere, so the evidence is, too
    assert compute(task, torch.zeros(1)).log_evidence == pytest.approx(0, abs=0.05)


def test_weights_of_several_proposals_give_the_evidence():
    target = Target(TwoModes(), X)
    population = Population(target, [Prior(target), Amortized(one_mode(X, 0.2), target)])
    population.draw([3000, 1000], stream(0))
    population.draw([0, 1000], stream(1))
    assert population.log_evidence == pytest.approx(TwoModes.log_evidence, abs=0.2)
    assert population.counts == [3000, 2000]


def test_an_error_of_the_likelihood_ends_the_chains():
    class Broken(TwoModes):
        def log_likelihood(self, theta, x):
            if len(theta) == 8:  # half of the walkers of an ensemble
                raise FloatingPointError("no number")
            return super().log_likelihood(theta, x)

    target = Target(Broken(), X)
    with pytest.raises(FloatingPointError, match="no number"):
        run_chains(target, Prior(target).sample(100, stream(0)), 16, 10, stream(1))


def test_bridge_evidence_of_independent_draws():
    target = Target(TwoModes(), X)
    with draws_from(stream(0)):
        z = target.to_z(TwoModes().posterior(X).sample((4000,)))
    got = bridge_evidence(target, Chains(z, target(z), 4000.0, 1.0), 2000, stream(1))
    assert got == pytest.approx(TwoModes.log_evidence, abs=0.05)


@pytest.mark.parametrize(
    ("task", "x", "message"),
    [
        (Mute(), torch.zeros(1), "task mute has no tractable likelihood"),
        (TwoModes(), torch.zeros(3), r"x.shape=\(3,\)"),
        (TwoModes(), torch.tensor([0.0, math.nan]), "free of NaN"),
    ],
)
def test_wrong_input(task, x, message):
    with pytest.raises(ConfigError, match=message):
        compute(task, x)


def test_impossible_observation():
    class Impossible(TwoModes):
        def log_likelihood(self, theta, x):
            return torch.full(theta.shape[:1], -math.inf)

    with pytest.raises(ImpossibleObservationError, match="the observation is impossible"):
        compute(Impossible(), X)


@pytest.mark.parametrize(
    "wrong",
    [{"num_samples": 0}, {"method": "x"}, {"defensive": 1.0}, {"walkers": 2}, {"max_rounds": 0}],
)
def test_settings_are_checked(wrong):
    with pytest.raises(ConfigError, match=f"reference.{next(iter(wrong))}="):
        ReferenceSettings(**wrong)


@pytest.mark.skipif(importlib.util.find_spec("sbibm") is None, reason="needs the extra sbibm")
@pytest.mark.parametrize("name", ["two_moons", "sir"])
def test_stored_posteriors_of_sbibm(name):
    task = SBIBM(name)
    reference = task.reference(1)
    result = compute(task, reference.x, batch=4096)
    assert result.converged
    assert c2st(reference.samples[:700], result.samples[:700]) < 0.55
