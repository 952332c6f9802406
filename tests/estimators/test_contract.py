"""One contract for every estimator in conf/estimator with every embedding in conf/embedding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from robust_npe.checks import ConfigError
from robust_npe.estimators import NflowsMAF, NflowsNSF
from robust_npe.random import draws_from, stream
from tests.estimators.common import (
    EMBEDDINGS,
    EVERY_DIMENSION,
    each_estimator,
    each_of_theta,
    each_support,
    make,
    spread_out,
)
from tests.helpers import (
    observations,
    prior_draws,
)


@each_support
@pytest.mark.parametrize("embedding", EMBEDDINGS)
@each_estimator
def test_shapes(name, embedding, support):
    estimator = make(name, support, embedding, dim_theta=3)
    q, theta = estimator(observations(4, estimator.dim_x)), prior_draws(4, support, dim_theta=3)
    assert q.batch_shape == (4,)
    assert q.event_shape == (3,)
    assert q.log_prob(theta).shape == (4,)
    assert q.log_prob(theta.expand(5, 4, 3)).shape == (5, 4)
    assert q.log_prob(theta[:1]).shape == (4,)  # one theta for all observations
    assert q.log_prob(theta[:, None, :]).shape == (4, 4)
    with draws_from(stream(0)):
        assert q.sample().shape == (4, 3)
        assert q.sample((5, 2)).shape == (5, 2, 4, 3)
        assert q.rsample((5,)).shape == (5, 4, 3)
        samples, log_prob = q.sample_and_log_prob((5,))
    assert samples.shape == (5, 4, 3)
    assert log_prob.shape == (5, 4)
    assert q.support.check(samples).all()
    assert samples.dtype == log_prob.dtype == torch.float32


@pytest.mark.parametrize("name", EVERY_DIMENSION)
def test_one_parameter_and_other_batch_shapes(name):
    estimator = make(name, dim_theta=1)
    x = observations(6)
    theta = prior_draws(6, dim_theta=1)
    expected = estimator(x).log_prob(theta)
    assert expected.shape == (6,)
    folded = estimator(x.view(2, 3, 3)).log_prob(theta.view(2, 3, 1))
    torch.testing.assert_close(folded, expected.view(2, 3))
    torch.testing.assert_close(estimator(x[0]).log_prob(theta[0]), expected[0])


@each_estimator
def test_observations_do_not_influence_each_other(name):
    estimator, x, theta = make(name), observations(5), prior_draws(5)
    together = estimator(x).log_prob(theta)
    alone = torch.cat([estimator(x[i : i + 1]).log_prob(theta[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    # each sample row belongs to its own observation
    x = 5 + 5 * (x - 5)
    with draws_from(stream(0)), torch.no_grad():
        samples = estimator(x).sample((400,))
    own = estimator(x).log_prob(samples).mean(0)
    other = estimator(x.roll(1, 0)).log_prob(samples).mean(0)
    assert float((own - other).detach().mean()) > 0.01


@pytest.mark.parametrize("support", ["box", "positive"])
@each_of_theta
def test_minus_infinity_outside_of_the_support_and_finite_gradients(name, support):
    estimator, x = make(name, support), observations(3).requires_grad_(True)
    theta = prior_draws(3, support)
    expected = estimator(x).log_prob(theta).detach()
    theta[1, 0] = {"box": 3.5, "positive": -1.0}[support]
    log_prob = estimator(x).log_prob(theta)
    assert log_prob[1] == -torch.inf
    torch.testing.assert_close(log_prob[[0, 2]].detach(), expected[[0, 2]])
    # one bad row must not spoil the gradient of all weights
    finite = log_prob.isfinite()
    gradients = torch.autograd.grad(log_prob[finite].sum(), (x, *estimator.parameters()))
    assert all(g.isfinite().all() for g in gradients)


@each_support
@each_estimator
def test_density_integrates_to_one(name, support):
    estimator = make(name, support)
    theta, area = spread_out(support)
    with torch.no_grad():
        for x in observations(2):
            density = estimator(x[None]).log_prob(theta.unsqueeze(1)).squeeze(1).double().exp()
            assert float((density * area).sum()) == pytest.approx(1, abs=2e-3)


@each_support
@each_estimator
def test_samples_agree_with_the_density(name, support):
    # E_q[r/q] = 1 for every density r within the support; r is narrow, so that r/q is bounded
    estimator, x = make(name, support), observations(4)
    r = {
        "real": stats.norm(0.2, 0.8),
        "box": stats.uniform(-0.5, 2.0),
        "positive": stats.lognorm(0.35, scale=1.1),
    }[support]
    with torch.no_grad(), draws_from(stream(0)):
        q = estimator(x)
        theta = q.sample((4000,))
        log_q = q.log_prob(theta).double().numpy()
    ratio = np.exp(r.logpdf(theta.double().numpy()).sum(-1) - log_q)
    error = ratio.std(0) / len(ratio) ** 0.5
    assert (np.abs(ratio.mean(0) - 1) < 4.5 * error).all()
    assert (error < 0.15).all()


@each_support
@each_estimator
def test_samples_come_with_their_own_density(name, support):
    estimator = make(name, support)
    with draws_from(stream(0)):
        theta, log_prob = estimator(observations(20)).sample_and_log_prob((50,))
    assert not theta.requires_grad
    assert not log_prob.requires_grad
    expected = estimator(observations(20)).log_prob(theta)
    difference = (log_prob - expected).abs()
    assert float(difference.detach().median()) < 1e-4
    assert float(difference.detach().quantile(0.99)) < 1e-2  # near the edge of float32
    with draws_from(stream(0)):
        torch.testing.assert_close(estimator(observations(20)).sample((50,)), theta)


@each_estimator
def test_samples_follow_the_generator_and_only_rsample_has_a_graph(name):
    q = make(name)(observations(3))

    def draw(seed, kind):
        with draws_from(stream(seed)):
            return getattr(q, kind)((2,))

    assert torch.equal(draw(0, "sample"), draw(0, "sample"))
    assert not torch.equal(draw(0, "sample"), draw(1, "sample"))
    assert not draw(0, "sample").requires_grad
    assert draw(0, "rsample").requires_grad
    torch.testing.assert_close(draw(0, "rsample").detach(), draw(0, "sample"))


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@each_estimator
def test_gradients_reach_every_parameter_and_every_feature(name, embedding):
    estimator = make(name, "box", embedding, dim_theta=3)
    x = observations(64, estimator.dim_x).requires_grad_(True)
    theta = prior_draws(64, "box", dim_theta=3)
    loss = -estimator(x).log_prob(theta).mean()
    if estimator.models_x:  # a decoder has no part in the density of theta
        with draws_from(stream(0)):
            loss = loss + estimator.loss(theta, x)
    loss.backward()
    for parameter_name, parameter in estimator.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert float(parameter.grad.abs().max()) > 0, parameter_name
    assert (x.grad.abs().amax(0) > 0).all()


@each_estimator
def test_every_coordinate_of_theta_depends_on_the_observation(name):
    estimator, x = make(name, dim_theta=3), observations(200)
    moved = x + torch.tensor([2.0, -2.0, 2.0])
    with draws_from(stream(0)), torch.no_grad():
        a = estimator(x).sample((20,))
    with draws_from(stream(0)), torch.no_grad():
        b = estimator(moved).sample((20,))
    assert ((a - b).abs().mean((0, 1)) > 0.05).all()


@pytest.mark.parametrize("kind", [NflowsMAF, NflowsNSF])
def test_known_limitation_of_nflows(kind):
    # the first coordinate of nflows' MADE ignores the context; the order changes in between, so
    # that the composition does not (see the test above)
    with draws_from(stream(0)):
        layer = kind(3, 2).transform._transforms[1]
        theta, context = torch.randn(5, 3), torch.randn(5, 2, requires_grad=True)
    z, _ = layer(theta, context)
    for i, ignored in enumerate([True, False, False]):
        (gradient,) = torch.autograd.grad(z[:, i].sum(), context, retain_graph=True)
        assert bool((gradient == 0).all()) == ignored
    with pytest.raises(ConfigError, match="at least 2"):
        kind(1, 2)


@pytest.mark.parametrize("support", ["real", "box"])
@each_estimator
def test_samples_carry_exact_gradients(name, support):
    # d/dx E[f(theta)], from reparameterised samples and from an integral over theta
    estimator, x = make(name, support), observations(1, seed=4)

    def f(theta):
        return torch.sin(theta[..., 0]) + 0.3 * theta[..., 0] * theta[..., 1]

    theta, area = spread_out(support)
    at = x.clone().requires_grad_(True)
    density = estimator(at).log_prob(theta.unsqueeze(1)).squeeze(1).double().exp()
    (reference,) = torch.autograd.grad((density * area * f(theta)).sum(), at)

    copies = x.repeat(4000, 1).requires_grad_(True)
    with draws_from(stream(0)):
        samples = estimator(copies).rsample()
    (gradients,) = torch.autograd.grad(f(samples).sum(), copies)
    error = gradients.std(0) / len(gradients) ** 0.5
    assert ((gradients.mean(0) - reference[0]).abs() < 4.5 * error + 1e-3).all()
    assert float((reference[0].abs() / error).max()) > 5  # the comparison has power
