"""Resampling against exact posteriors."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal

import robust_npe as rn
from robust_npe.attacks import FGSM, PGD, KLForward, KLReverse, make_ball
from robust_npe.checks import ConfigError
from robust_npe.defenses import Ensemble, NoDefense, Resampled, ResampledPosterior, Resampling
from robust_npe.metrics import NLL, Context, EffectiveSize
from robust_npe.posterior import gradient
from robust_npe.random import draws_from, stream
from robust_npe.tasks import SBIBM, GaussianLinear, SpatialSIR
from tests.helpers import Exact, gaussian_kl, linear_task, pairs
from tests.posteriors import differences

TASK = linear_task()


def bad(task, spread=1.8, shift=0.2):
    return Exact(task, spread, shift)


def resampled(posterior, task=TASK, samples=20_000, prior_share=0.1):
    return ResampledPosterior(posterior, task, samples, prior_share)


@pytest.mark.parametrize("prior_share", [0.0, 0.1])
def test_a_bad_network_becomes_the_exact_posterior(prior_share):
    theta, x = (t.double() for t in pairs(TASK, 20))
    exact = TASK.true_posterior(x)
    q = resampled(bad(TASK).double(), prior_share=prior_share)(x)
    torch.testing.assert_close(q.log_prob(theta), exact.log_prob(theta), rtol=0, atol=0.05)
    with draws_from(stream(0)):
        samples = q.sample((20_000,))
    assert samples.shape == (20_000, 20, 2)
    covariance = torch.stack([samples[:, b].T.cov() for b in range(20)])
    found = MultivariateNormal(samples.mean(0), covariance)
    assert float(gaussian_kl(exact, found).max()) < 0.01
    wrong = bad(TASK).double()(x).base
    assert float(gaussian_kl(exact, wrong).min()) > 0.3


def test_ten_parameters_of_a_moderately_wrong_network():
    task = GaussianLinear()
    theta, x = (t.double() for t in pairs(task, 50))
    q = resampled(bad(task, 1.2, 0.05).double(), task, 4000)(x)
    error = q.log_prob(theta) - task.true_posterior(x).log_prob(theta)
    assert float(error.abs().mean()) < 0.1


def test_effective_size_and_density_by_hand():
    x = torch.zeros(1, 2)
    proposals = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, 0.3]]).repeat(4, 1).unsqueeze(1)
    log_proposal = torch.linspace(-1, 1, 12).double().unsqueeze(1)
    q = Resampled(TASK, x, proposals, log_proposal)
    joint = TASK.prior.log_prob(proposals).double() + TASK.log_likelihood(proposals, x)
    weights = (joint - log_proposal).exp()
    torch.testing.assert_close(q.effective_size, weights.sum(0) ** 2 / (weights**2).sum(0))
    with draws_from(stream(0)):
        theta, log_prob = q.sample_and_log_prob((5,))
    expected = TASK.prior.log_prob(theta) + TASK.log_likelihood(theta, x) - weights.mean(0).log()
    torch.testing.assert_close(log_prob, expected.float())
    torch.testing.assert_close(q.log_prob(theta), log_prob)


@pytest.mark.parametrize(("prior_share", "seen"), [(0.0, False), (0.1, True)])
def test_draws_of_the_prior_show_that_a_confident_network_is_wrong(prior_share, seen):
    theta, x = pairs(TASK, 50)
    lost = bad(TASK, spread=0.02, shift=3.0)  # narrow, so that its own samples weigh alike
    q = resampled(lost, samples=256, prior_share=prior_share)
    context = Context(TASK, q, theta, x, x, False, 0)
    values = NLL()(context)[0].per_observation
    (size,) = EffectiveSize()(context)
    if seen:  # a few observations get an answer, which is a good one
        assert float((values.isnan() | (values < 10)).double().mean()) == 1
        assert float(size.per_observation.median()) < 10 / 256
    else:
        assert float(values.nanmean()) < -50  # the evidence is missing: an absurd density
    assert EffectiveSize()(Context(TASK, lost, theta, x, x, False, 0)) == []


def test_no_likely_proposal_is_no_answer():
    task = SBIBM("gaussian_linear_uniform")
    x = torch.zeros(2, 10)
    outside = torch.full((8, 2, 10), 5.0)
    q = Resampled(task, x, outside, torch.zeros(8, 2, dtype=torch.float64))
    assert torch.equal(q.effective_size, torch.zeros(2).double())
    with draws_from(stream(0)):
        theta, log_prob = q.sample_and_log_prob((3,))
    assert theta.isfinite().all()
    assert log_prob.isnan().all()


def test_density_outside_of_the_support_and_its_gradient():
    task = SBIBM("gaussian_linear_uniform")
    x = torch.full((2, 10), 0.9).requires_grad_(True)
    near = torch.full((200, 2, 10), 0.8) + 0.1 * torch.rand(200, 2, 10, generator=stream(0))
    q = Resampled(task, x, near, torch.zeros(200, 2, dtype=torch.float64))
    theta = torch.stack([torch.full((2, 10), 0.85), torch.full((2, 10), 1.2)])
    value = q.log_prob(theta)
    assert value[0].isfinite().all()
    assert (value[1] == -torch.inf).all()
    assert torch.autograd.grad(value[0].sum(), x)[0].isfinite().all()


def test_gradient_is_that_of_the_exact_density():
    theta, x = (t.double() for t in pairs(TASK, 5))
    posterior = resampled(bad(TASK).double())
    leaf = x.clone().requires_grad_(True)
    found = gradient(posterior(leaf).log_prob(theta), leaf)
    expected = differences(lambda v: TASK.true_posterior(v).log_prob(theta), x)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("attack", [PGD(KLForward(), steps=15), FGSM(KLReverse())])
def test_attacks_find_more_than_noise(attack):
    x = pairs(TASK, 10)[1]
    posterior, ball = resampled(bad(TASK), samples=500), make_ball("l2", 0.3)
    x_adv = attack(posterior, x, ball=ball, generator=stream(0))
    noise = x + ball.sample(x, stream(1))
    moved, by_noise = (rn.kl(TASK.true_posterior, x, v).mean() for v in (x_adv, noise))
    assert moved > 1.3 * by_noise


def test_tasks_without_a_likelihood_are_refused_before_any_work():
    task = SpatialSIR()
    with pytest.raises(ConfigError, match=r"defense=posthoc needs a likelihood, and task spatial"):
        rn.train(task, defense=Ensemble(Resampling(NoDefense())))
    Resampling(NoDefense()).check(TASK)


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"prior_share": 1.0}, {"prior_share": -0.1}])
def test_settings_are_checked(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Resampling(NoDefense(), **wrong)
