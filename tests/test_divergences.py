from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, Laplace, MultivariateNormal, Normal

from robust_npe.divergences import (
    has_closed_form_kl,
    kl,
    kl_with_error,
    log_ratios,
    mean_with_error,
    standard_error,
)
from robust_npe.estimators import MAF, DiagonalGaussian, FullGaussian, Pushforward
from robust_npe.estimators.bijection import Bijection
from robust_npe.random import draws_from, stream
from tests.helpers import NoClosedForm, gaussian_kl, make_estimator, observations, prior


def gaussians(batch=3, dim=2, seed=0):
    def one(purpose):
        g = stream(seed, purpose)
        factor = torch.randn(batch, dim, dim, generator=g, dtype=torch.float64)
        covariance = factor @ factor.mT + 0.5 * torch.eye(dim)
        mean = torch.randn(batch, dim, generator=g, dtype=torch.float64)
        return MultivariateNormal(mean, covariance)

    return one("p"), one("q")


def test_gaussians_are_in_closed_form_and_need_no_samples():
    p, q = gaussians()
    assert has_closed_form_kl(p, q)
    torch.testing.assert_close(kl(p, q, 0, stream(0)), gaussian_kl(p, q))
    # the two directions must differ, else a swap would go unnoticed
    assert float((gaussian_kl(p, q) - gaussian_kl(q, p)).abs().min()) > 0.1


def test_monte_carlo_estimate_agrees_with_the_closed_form():
    p, q = gaussians()
    hidden = NoClosedForm(p), NoClosedForm(q)
    assert not has_closed_form_kl(*hidden)
    repeats = torch.stack([kl(*hidden, 500, stream(i)) for i in range(200)])
    error = repeats.std(0) / len(repeats) ** 0.5
    exact = gaussian_kl(p, q)
    assert ((repeats.mean(0) - exact).abs() < 4.5 * error).all()
    assert (error < 0.05 * exact).all()


def test_closed_form_has_no_error():
    p, q = gaussians()
    value, error = kl_with_error(p, q, 0, stream(0))
    assert torch.equal(value, kl(p, q, 0, stream(0)))
    assert error.tolist() == [0, 0, 0]


@pytest.mark.parametrize("num_samples", [50, 51])
@pytest.mark.parametrize("pairs", [True, False])
def test_standard_error_is_the_spread_of_repeated_estimates(pairs, num_samples):
    if pairs:
        estimator, x = make_estimator(MAF, gain=1.3), observations(4)
        p, q = estimator(x), estimator(x + 5)  # far enough for terms without control variate
    else:
        p, q = (NoClosedForm(d) for d in gaussians())
        p.has_rsample = False
        p.sample = p.rsample
    assert not has_closed_form_kl(p, q)
    repeats = [kl_with_error(p, q, num_samples, stream(i)) for i in range(400)]
    assert torch.equal(repeats[7][0], kl(p, q, num_samples, stream(7)))
    values, errors = (torch.stack(v).detach() for v in zip(*repeats, strict=True))
    torch.testing.assert_close(errors.mean(0), values.std(0), rtol=0.15, atol=0)


def test_errors_cancel_within_antithetic_pairs():
    terms = torch.tensor([[1.0], [-1.0], [3.0], [-1.0], [2.0], [-2.0], [9.0]])
    pairs = torch.tensor([0.0, 1.0, 0.0])
    assert float(standard_error(terms, paired=True)) == pytest.approx(float(pairs.std() / 3**0.5))
    assert float(standard_error(terms, paired=False)) == pytest.approx(float(terms.std() / 7**0.5))
    assert standard_error(terms[:3], paired=True).isnan().all()


def close_pair():
    """Two antithetic flows that nearly agree, and terms of repeated estimates `(R, S, B)`."""
    estimator, x = make_estimator(MAF, gain=1.7), observations(4)
    p, q = estimator(x), estimator(x + 0.3)
    return log_ratios(p, q, 400 * 256, stream(0)).detach().unflatten(0, (400, 256))


def test_control_variate_takes_the_noise_away_and_no_truth():
    terms = close_pair()
    plain = terms.double().mean(1)
    values, errors = (
        torch.stack(v) for v in zip(*(mean_with_error(t, True) for t in terms), strict=True)
    )
    assert (plain.mean(0) < 0.02).all()
    difference = values - plain
    assert (difference.mean(0).abs() < 3.5 * difference.std(0) / len(terms) ** 0.5).all()
    assert (values.std(0) < 0.4 * plain.std(0)).all()
    ratio = errors.square().mean(0).sqrt() / values.std(0)
    assert float(ratio.mean()) == pytest.approx(1, abs=0.15)


def test_control_variate_is_left_out_where_it_cannot_be_trusted():
    def plain(terms):
        value, error = mean_with_error(terms, False)
        return value == terms.mean(0) and error == standard_error(terms, False)

    noise = 0.1 * torch.randn(256, 1, generator=stream(0), dtype=torch.float64)
    assert not plain(noise + 0.005)
    assert plain(noise + 1.0)  # the KL is not small
    assert plain(10 * noise)  # nor is the spread
    # 2 % of q has moved to where p has no samples: without a check the estimate would be 0
    moved = -torch.log(torch.tensor(0.98)) + 0.1 * noise
    assert plain(moved)
    noise[3] = torch.inf
    assert mean_with_error(noise, False)[0] == torch.inf
    assert not mean_with_error(noise[4:7], False)[0].isnan()


def test_monte_carlo_estimate_is_a_function_of_the_generator():
    p, q = (NoClosedForm(d) for d in gaussians())
    assert torch.equal(kl(p, q, 3, stream(1)), kl(p, q, 3, stream(1)))
    assert not torch.equal(kl(p, q, 3, stream(1)), kl(p, q, 3, stream(2)))


def test_distributions_without_reparameterised_samples_work():
    class Rough(NoClosedForm):
        has_rsample = False

        def sample(self, sample_shape=()):
            return self.base.sample(sample_shape)

        def rsample(self, sample_shape=()):
            raise AssertionError("has no rsample")

    p, q = gaussians()
    estimate = kl(Rough(p), Rough(q), 20_000, stream(0))
    torch.testing.assert_close(estimate, gaussian_kl(p, q), rtol=0.1, atol=0)


def test_gradient_flows_through_both_distributions():
    # KL(N(m, s) || N(0, 1)): d/dm = m, d/ds = s - 1/s; and -m on the other side
    m = torch.tensor([[0.7]], dtype=torch.float64, requires_grad=True)
    s = torch.tensor([[1.6]], dtype=torch.float64, requires_grad=True)
    n = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    p = NoClosedForm(Independent(Normal(m, s), 1))
    q = NoClosedForm(Independent(Normal(n, torch.ones_like(n)), 1))
    grads = torch.autograd.grad(kl(p, q, 200_000, stream(0)).sum(), (m, s, n))
    expected = (0.7, 1.6 - 1 / 1.6, -0.7)
    assert [float(g) for g in grads] == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("support", ["real", "box", "positive"])
@pytest.mark.parametrize("head", [DiagonalGaussian, FullGaussian])
def test_kl_of_gaussian_estimators_survives_the_bijection(head, support):
    # KL does not change under a shared bijection: closed form against samples in theta space
    estimator = make_estimator(head, support, gain=1.5)
    x = observations(4)
    p, q = estimator(x), estimator(x + 2)
    assert has_closed_form_kl(p, q)
    closed = kl(p, q, 0, stream(0))
    with draws_from(stream(1)):
        theta = p.sample((20_000,))
    terms = p.log_prob(theta) - q.log_prob(theta)
    error = terms.std(0) / len(terms) ** 0.5
    assert ((closed - terms.mean(0)).abs() < 4.5 * error).all()
    assert (closed > 10 * error).all()


def test_no_closed_form_between_different_bijections_or_families():
    base = MultivariateNormal(torch.zeros(2), torch.eye(2))
    one, other = (Pushforward(base, Bijection(2, prior("real").support)) for _ in range(2))
    assert has_closed_form_kl(one, one)
    assert not has_closed_form_kl(one, other)
    assert not has_closed_form_kl(Independent(Laplace(torch.zeros(2), 1.0), 1), base)
