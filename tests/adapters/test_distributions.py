"""Black boxes, weighted draws of a prior, and mixtures: against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

import robust_npe as rn
from robust_npe.adapters import BlackBoxPosterior, PriorDrawsPosterior
from robust_npe.adapters.ensembles import WeightedEnsemble
from robust_npe.checks import ConfigError
from robust_npe.random import draws_from, stream


def gaussian(x):
    return Independent(Normal(2 * x, 0.5), 1)


class Sampler:
    """Draws by numpy, as samplers of MCMC do."""

    def sample(self, shape, x):
        return 2 * x + 0.5 * torch.as_tensor(np.random.randn(*shape, x.shape[-1]), dtype=x.dtype)

    def log_prob(self, theta, x):
        return gaussian(x).log_prob(theta)


class Leaky(Sampler):
    """As sbi's: draws outside of the prior theta > 0, but gives them no density."""

    def sample(self, shape, x, reject_outside_prior=True, show_progress_bars=True):
        assert not reject_outside_prior
        assert not show_progress_bars
        return super().sample(shape, x)

    def log_prob(self, theta, x, norm_posterior=True):
        assert not norm_posterior
        return torch.where((theta > 0).all(-1), super().log_prob(theta, x), -torch.inf)


X = torch.tensor([[0.0, 1.0], [0.5, -1.0], [2.0, 0.3]])


def test_black_boxes():
    q = rn.as_posterior(Sampler())
    assert isinstance(q, BlackBoxPosterior)
    with draws_from(stream(0)):
        theta = q(X).sample((5000,))
    with draws_from(stream(0)):
        assert torch.equal(q(X).sample((5000,)), theta)
    torch.testing.assert_close(theta.mean(0), 2 * X, rtol=0, atol=0.04)
    torch.testing.assert_close(q(X).log_prob(theta), gaussian(X).log_prob(theta))
    with draws_from(stream(0)):
        assert q(X).sample((2, 3)).shape == (2, 3, 3, 2)
    found = rn.kl(q, X, X + 0.1, 4000)  # |2 0.1|^2 2 / (2 0.25)
    torch.testing.assert_close(found, torch.full((3,), 0.16), rtol=0.15, atol=0)


def test_attacks_without_gradients_move_a_black_box():
    q = rn.as_posterior(Sampler())
    search = rn.attacks.RandomSearch(rn.attacks.KLForward(), 30)
    ball = rn.attack(q, X, epsilon=0.5, epsilon_unit="absolute", method=search)
    exact = (2 * 0.5) ** 2 / (2 * 0.25)
    assert (rn.kl(q, X, ball, 2000) > 0.8 * exact).all()


def test_samples_of_density_zero_are_replaced():
    q = rn.as_posterior(Leaky())(X[[0, 2]])
    with draws_from(stream(0)):
        theta = q.sample((4000,))
    assert (theta[:, 1] > 0).all()
    assert (theta > 0).all()
    torch.testing.assert_close(theta[:, 0, 0].mean(), torch.tensor(0.3989), rtol=0.05, atol=0)


class Likelihood(nn.Module):
    def forward(self, theta, x):
        return Normal(theta, 0.5).log_prob(x).sum(-1)


def conjugate(x):
    """theta ~ N(0, 1), x ~ N(theta, 0.25)."""
    return Normal(0.8 * x, 0.2**0.5)


def test_weighted_draws_have_the_moments_of_the_posterior():
    prior = MultivariateNormal(torch.zeros(2), torch.eye(2))
    ratio = lambda net, theta, x: net(theta, x)  # noqa: E731
    q = PriorDrawsPosterior(Likelihood(), ratio, prior, 40_000)(X)
    mean = q.probs @ q.values
    torch.testing.assert_close(mean, conjugate(X).mean, rtol=0, atol=0.05)
    variance = q.probs @ q.values.square() - mean.square()
    torch.testing.assert_close(variance, torch.full((3, 2), 0.2), rtol=0.1, atol=0)
    # M E[w]^2 / E[w^2] under the prior;
    # for w = N(x; theta, s), w^2 is N(x; theta, s/2) / (4 pi s)^.5
    once = Normal(0.0, 1.25**0.5).log_prob(X)
    square = Normal(0.0, 1.125**0.5).log_prob(X) - 0.5 * math.log(4 * math.pi * 0.25)
    expected = 40_000 * (2 * once - square).sum(-1).exp()
    torch.testing.assert_close(q.effective_sample_size, expected, rtol=0.1, atol=0)


def test_few_draws_are_refused():
    with pytest.raises(ConfigError, match="num_draws=1"):
        PriorDrawsPosterior(Likelihood(), lambda *_: None, Normal(0.0, 1.0), 1)
    with pytest.raises(ConfigError, match="a method `sample`"):
        PriorDrawsPosterior(Likelihood(), lambda *_: None, None)


def test_weighted_mixtures():
    other = lambda x: Independent(Normal(-x, 1.0), 1)  # noqa: E731
    q = WeightedEnsemble([gaussian, other], torch.tensor([3.0, 1.0]))(X)
    theta = torch.randn(50, 3, 2, generator=stream(0))
    expected = 0.75 * gaussian(X).log_prob(theta).exp() + 0.25 * other(X).log_prob(theta).exp()
    torch.testing.assert_close(q.log_prob(theta).exp(), expected)
    with draws_from(stream(0)):
        samples = q.sample((20_000,))
    torch.testing.assert_close(samples.mean(0), 0.75 * 2 * X - 0.25 * X, rtol=0, atol=0.06)
    # both coordinates of a sample come from the same member
    product = 0.75 * (2 * X).prod(-1) + 0.25 * (-X).prod(-1)
    torch.testing.assert_close(samples.prod(-1).mean(0), product, rtol=0, atol=0.1)


def weighted(num_draws):
    """Likelihood and prior of `conjugate`, as weights on draws."""
    prior = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    return PriorDrawsPosterior(Likelihood(), Likelihood.__call__, prior, num_draws)


def test_moments_and_density_behind_prior_draws_are_the_exact_ones():
    posterior, exact = weighted(40_000), Independent(conjugate(X[:2]), 1)
    mean, std = posterior(X[:2]).moments()
    torch.testing.assert_close(mean, exact.mean, rtol=0, atol=0.03)
    torch.testing.assert_close(std, exact.stddev.expand(2, 2), rtol=0.05, atol=0)
    with draws_from(stream(1)):
        theta = exact.sample((50,))
    q = posterior.over_theta(X[:2])
    torch.testing.assert_close(q.log_prob(theta), exact.log_prob(theta), rtol=0, atol=0.06)
    with draws_from(stream(2)):
        drawn = q.sample((5000,))
    torch.testing.assert_close(drawn.mean(0), exact.mean, rtol=0, atol=0.04)
    pair = WeightedEnsemble([posterior, posterior], torch.tensor([1.0, 3.0])).over_theta(X[:2])
    torch.testing.assert_close(pair.log_prob(theta), q.log_prob(theta))


def test_scores_of_prior_draws_are_gradients_of_log_weights():
    posterior, x = weighted(300), X[:2]
    found = posterior.scores(x, 400, stream(3), attached=False)
    assert found.shape == (400, 2, 2)
    rows = x.clone().requires_grad_(True)
    log_q = posterior(rows).logits
    slopes = [
        torch.autograd.grad(log_q[:, m].sum(), rows, retain_graph=True)[0] for m in range(300)
    ]
    distance = torch.cdist(found.movedim(0, 1), torch.stack(slopes, 1)).amin(-1)
    assert distance.max() < 0.01  # of slopes of about 2, by matrix products
    # samples follow the weights: the mean square is that of all draws
    expected = torch.einsum("bm,mbd->bd", log_q.exp(), torch.stack(slopes).square())
    torch.testing.assert_close(found.square().mean(0), expected.detach(), rtol=0.2, atol=0)


def test_the_mean_shift_of_prior_draws_is_that_of_the_parameters():
    objective = rn.attacks.MeanShift()(weighted(40_000), X[:2], None, stream(0))
    moved = X[:2] + torch.tensor([0.5, 0.0])
    expected = torch.full((2,), 0.8 * 0.5 / 0.2**0.5)
    torch.testing.assert_close(objective(moved), expected, rtol=0.06, atol=0)
