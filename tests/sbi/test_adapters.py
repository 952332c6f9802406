"""Posteriors of sbi: densities against sbi's own, gradients against finite differences."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import pytest
import torch
from sbi.inference import EnsemblePosterior
from sbi.utils import BoxUniform

import robust_npe as rn
from robust_npe.adapters import BlackBoxPosterior, PriorDraws, PriorDrawsPosterior
from robust_npe.checks import ConfigError
from robust_npe.divergences import kl
from robust_npe.mixtures import EvenMixture
from robust_npe.posterior import sample_and_log_prob
from robust_npe.random import draws_from, stream
from tests.sbi.conftest import DENSITIES, FIELDS, LIKELIHOODS


def own_log_prob(name, posterior, theta, x):
    """sbi's log densities, one x at a time: `theta (S, B, D)` and `x (B, Dx)`, shape `(S, B)`."""
    options = {} if name in FIELDS else {"norm_posterior": False}
    values = [posterior.log_prob(theta[:, i], x=x[i : i + 1], **options) for i in range(len(x))]
    return torch.stack(values, 1)


@pytest.mark.parametrize("name", DENSITIES)
def test_log_densities_are_those_of_sbi(name, trained, problem):
    _, theta, x = problem
    posterior = trained(name)
    q = rn.as_posterior(posterior)(x[:4])
    assert q.batch_shape == (4,)
    assert q.event_shape == (2,)
    inside = theta[:12].reshape(3, 4, 2)
    expected = own_log_prob(name, posterior, inside, x[:4])
    torch.testing.assert_close(q.log_prob(inside), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FIELDS)
def test_log_densities_of_flows_in_time_are_those_of_sbi(name, trained, problem):
    """Up to the solver, which takes other steps for a batch than for one x: with small ones."""
    posterior = copy.deepcopy(trained(name))
    q, x = double(posterior), problem[2][:4].double()
    inside = problem[1][:12].reshape(3, 4, 2).double()
    posterior.potential_fn.vector_field_estimator.double()
    solver = posterior.potential_fn.neural_ode
    tighten(solver)
    with doubles():
        own = own_log_prob(name, posterior, inside, x)
        torch.testing.assert_close(q(x).log_prob(inside), own, rtol=1e-5, atol=1e-5)
    coarse = rn.as_posterior(trained(name))(x).log_prob(inside.float())
    torch.testing.assert_close(coarse.double(), own, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name", [*DENSITIES, "fmpe"])
def test_samples_come_with_their_own_density(name, trained, problem):
    """sbi's `sample_and_log_prob` of nflows mixes up several x."""
    x = problem[2][:4]
    q = rn.as_posterior(trained(name))(x)
    with draws_from(stream(0)):
        theta, value = sample_and_log_prob(q, (5,))
    posterior = rn.as_posterior(trained(name))
    alone = [posterior(x[i : i + 1]).log_prob(theta[:, i : i + 1]) for i in range(4)]
    digits = 2e-3 if name == "fmpe" else 1e-4  # the solver's steps depend on the batch
    torch.testing.assert_close(value, torch.cat(alone, 1).detach(), rtol=digits, atol=digits)


@pytest.mark.parametrize("name", DENSITIES)
def test_samples_have_the_moments_of_sbis(name, trained, problem):
    posterior, x = trained(name), problem[2][:3]
    with draws_from(stream(0)):
        own = posterior.posterior_estimator.sample((4000,), condition=x).detach()
        found = rn.as_posterior(posterior)(x).sample((4000,))
    error = own.std(0) / 4000**0.5
    assert ((own.mean(0) - found.mean(0)).abs() < 6 * error).all()
    torch.testing.assert_close(own.std(0), found.std(0), rtol=0.15, atol=0)


def double(posterior):
    """A copy of double precision: differences need digits."""
    q = copy.deepcopy(rn.as_posterior(posterior)).double()
    if hasattr(q, "estimator") and hasattr(q.estimator, "solver"):
        tighten(q.estimator.solver)
    return q


@contextmanager
def doubles():
    """sbi's embedding of time has the default precision whatever the precision of its weights."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def tighten(solver):
    solver.mean_base, solver.std_base = solver.mean_base.double(), solver.std_base.double()
    solver.update_params(atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", [*DENSITIES, "fmpe", *LIKELIHOODS])
def test_gradients_are_finite_differences(name, trained, problem):
    posterior = double(trained(name))
    x = problem[2][:2].double()
    discrete = isinstance(posterior, PriorDrawsPosterior)
    events = torch.tensor([[3, 700]]) if discrete else problem[1][:2].double()[None]

    def value(x):
        return posterior(x).log_prob(events).sum()

    move = torch.randn(x.shape, generator=stream(1), dtype=x.dtype)
    step = 1e-5 * move / move.norm()
    with doubles():
        (gradient,) = torch.autograd.grad(value(x.requires_grad_(True)), x)
        with torch.no_grad():
            expected = (value(x + step) - value(x - step)) / 2
    assert expected.abs() > 1e-9
    torch.testing.assert_close((gradient * step).sum(), expected, rtol=1e-3, atol=1e-10)


def test_several_x_are_no_iid_data_set(trained, problem):
    """sbi's `VectorFieldPosterior.log_prob` takes them for one."""
    x, theta = problem[2][:3], problem[1][:3]
    q = rn.as_posterior(trained("fmpe"))
    one_by_one = torch.cat([q(x[i : i + 1]).log_prob(theta[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(q(x).log_prob(theta), one_by_one, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["maf", "mdn", "zuko_nsf"])
def test_an_attack_finds_more_than_chance(name, trained, problem):
    q, x = rn.as_posterior(trained(name)), problem[2][:8]
    noise = rn.attack(q, x, epsilon=0.5, method=rn.attacks.Noise())
    pgd = rn.attacks.PGD(rn.attacks.KLForward(), steps=15)
    found = rn.attack(q, x, epsilon=0.5, method=pgd)
    assert rn.kl(q, x, found, 2000).mean() > 1.2 * rn.kl(q, x, noise, 2000).mean()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_weights_on_prior_draws_are_sbis_potential(name, trained, problem):
    posterior, x = trained(name), problem[2][:3]
    prior = problem[0]
    q = rn.as_posterior(posterior, num_draws=300, seed=1)(x)
    assert isinstance(q, PriorDraws)
    assert prior.support.check(q.values).all()
    for i in range(3):
        with draws_from(stream(0)):
            potential = posterior.potential(q.values, x=x[i : i + 1])
        torch.testing.assert_close(q.logits[i], potential.log_softmax(0), rtol=1e-4, atol=1e-4)
    assert ((q.effective_sample_size > 1) & (q.effective_sample_size <= 300)).all()
    with draws_from(stream(0)):
        theta = q.theta(q.sample((1,)))
    assert theta.shape == (1, 3, 2)


def test_ensembles(trained, problem):
    _, theta, x = problem
    members = [trained("maf"), trained("maf", seed=1)]
    plain = rn.as_posterior(EnsemblePosterior(members))(x[:4])
    assert isinstance(plain, EvenMixture)
    weighted = EnsemblePosterior(members, weights=[1.0, 3.0])
    q = rn.as_posterior(weighted)(x[:4])
    inside = theta[:12].reshape(3, 4, 2)
    own = torch.stack([own_log_prob("maf", m, inside, x[:4]) for m in members]).exp()
    torch.testing.assert_close(q.log_prob(inside).exp(), 0.25 * own[0] + 0.75 * own[1])
    torch.testing.assert_close(plain.log_prob(inside).exp(), own.mean(0))
    with draws_from(stream(0)):
        samples = q.sample((8000,))
        parts = [rn.as_posterior(m)(x[:4]).sample((8000,)) for m in members]
    mean = 0.25 * parts[0].mean(0) + 0.75 * parts[1].mean(0)
    assert ((samples.mean(0) - mean).abs() < 6 * samples.std(0) / 8000**0.5 * 2).all()


def test_an_ensemble_of_likelihoods_shares_its_draws(trained, problem):
    ensemble = EnsemblePosterior([trained("nle"), trained("nle", seed=1)])
    q = rn.as_posterior(ensemble, num_draws=200)(problem[2][:2])
    one, other = (rn.as_posterior(m, num_draws=200)(problem[2][:2]) for m in ensemble.posteriors)
    torch.testing.assert_close(q.probs, (one.probs + other.probs) / 2)
    torch.testing.assert_close(q.values, one.values)


def test_acceptance_is_what_sbi_corrects_for(trained, problem):
    posterior, x = trained("maf"), problem[2][:2]
    found = rn.as_posterior(posterior).acceptance(x, 4000, stream(0))
    with draws_from(stream(1)):
        own = [posterior.leakage_correction(x[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(found, torch.cat([o.reshape(1) for o in own]), rtol=0, atol=0.04)
    with pytest.raises(ConfigError, match="prior is not known"):
        rn.as_posterior(posterior.posterior_estimator).acceptance(x, 10, stream(0))


def test_what_is_nearly_always_outside_of_the_prior_does_not_hang(trained, problem):
    narrow = copy.deepcopy(trained("maf"))
    narrow.prior = narrow.potential_fn.prior = BoxUniform(50 * torch.ones(2), 51 * torch.ones(2))
    q, x = rn.as_posterior(narrow), problem[2][:2]
    assert (q.acceptance(x, 100, stream(0)) == 0).all()
    assert kl(q(x), q(x + 0.1), 10, stream(0)).isfinite().all()


def test_other_posteriors_are_black_boxes(trained, problem):
    class Corrected(type(trained("maf"))):
        pass

    posterior = copy.deepcopy(trained("maf"))
    posterior.__class__ = Corrected
    q, x = rn.as_posterior(posterior), problem[2][:3]
    assert isinstance(q, BlackBoxPosterior)
    theta = problem[1][:6].reshape(2, 3, 2)
    expected = own_log_prob("maf", posterior, theta, x)
    torch.testing.assert_close(q(x).log_prob(theta), expected)
    found = rn.attack(q, x, method=rn.attacks.RandomSearch(rn.attacks.KLForward(), 8))
    assert rn.kl(q, x, found).mean() > 0


@pytest.mark.parametrize("name", FIELDS)
def test_what_training_returns_is_a_posterior_too(name, trained, problem):
    posterior, x = trained(name), problem[2][:2]
    q = rn.as_posterior(posterior.vector_field_estimator, prior=posterior.prior)
    same = rn.as_posterior(posterior)
    theta = problem[1][:2]
    torch.testing.assert_close(q(x).log_prob(theta), same(x).log_prob(theta), rtol=1e-3, atol=1e-3)
