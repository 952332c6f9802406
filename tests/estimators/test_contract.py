"""One contract for every estimator in conf/estimator with every embedding in conf/embedding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from robust_npe.checks import ConfigError
from robust_npe.defenses import NoDefense
from robust_npe.estimators import Estimator, Identity, MixtureDensityNetwork, NflowsMAF, NflowsNSF
from robust_npe.random import draws_from, stream
from robust_npe.store.weights import load_weights, save_weights
from robust_npe.training import TrainingSettings, train
from tests.helpers import (
    SUPPORTS,
    conf_names,
    from_conf,
    linear_task,
    make_estimator,
    observations,
    pairs,
    prior_draws,
)

ESTIMATORS = conf_names("estimator")
EMBEDDINGS = conf_names("embedding")
DIM_X = {"cnn1d": 12, "cnn2d": 16, "pyloric_cnn": 27}  # 3 for the others
EVERY_DIMENSION = [n for n in ESTIMATORS if not n.startswith("nflows")]
# random weights are scaled up, so that q depends on x and is not Gaussian, but stays well resolved
GAIN = {"maf": 1.5, "nsf": 1.5, "gaussian": 1.3, "gaussian_full": 1.2, "mdn": 1.3}

each_estimator = pytest.mark.parametrize("name", ESTIMATORS)
each_support = pytest.mark.parametrize("support", SUPPORTS)


def make(name, support="real", embedding="identity", **kwargs):
    head, net = from_conf("estimator", name), from_conf("embedding", embedding)
    gain = GAIN.get(name, 1.15)
    dim_x = DIM_X.get(embedding, 3)
    estimator = make_estimator(head, support, embedding=net, gain=gain, dim_x=dim_x, **kwargs)
    if name == "nflows_maf":  # a fresh one is about three times as wide as the prior
        estimator.bijection.standardize.std.div_(3)
    return estimator


def spread_out(kind, points=240):
    """Points `(N, 2)` that cover a support, and the area that each stands for."""
    half = {"real": 20, "box": 14, "positive": 6}[kind]
    width = 2 * half / points
    t = -half + width * (torch.arange(points, dtype=torch.float64) + 0.5)
    s = torch.sigmoid(t)
    line, length = {
        "real": (t, torch.full_like(t, width)),
        "box": (-2 + 5 * s, 5 * s * (1 - s) * width),
        "positive": (t.exp(), t.exp() * width),
    }[kind]
    return torch.cartesian_prod(line, line).float(), torch.outer(length, length).flatten()


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
@each_estimator
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
    loss = -estimator(x).log_prob(prior_draws(64, "box", dim_theta=3)).mean()
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


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@each_estimator
def test_save_and_load(name, embedding, tmp_path):
    estimator, theta = make(name, "box", embedding), prior_draws(10, "box")
    x = observations(10, estimator.dim_x)
    save_weights(estimator, tmp_path / "w.safetensors")
    with draws_from(stream(77)):
        other = make_fresh(name, embedding)
    assert not torch.equal(other(x).log_prob(theta), estimator(x).log_prob(theta))
    load_weights(other, tmp_path / "w.safetensors")
    assert torch.equal(other(x).log_prob(theta), estimator(x).log_prob(theta))
    with draws_from(stream(0)):
        expected = estimator(x).sample((3,))
    with draws_from(stream(0)):
        assert torch.equal(other(x).sample((3,)), expected)


def make_fresh(name, embedding):
    support = make(name, "box").bijection.support
    head, net = from_conf("estimator", name), from_conf("embedding", embedding)
    return Estimator(head, net, 2, DIM_X.get(embedding, 3), support)


@each_estimator
def test_units_of_the_data_do_not_matter(name):
    estimator, other = make(name), make(name)
    scale, offset = torch.tensor([1e3, 0.1, 20.0]), torch.tensor([-50.0, 3.0, 0.0])
    unit, zero = torch.tensor([100.0, 0.01]), torch.tensor([5.0, -1.0])
    x_train, theta_train = observations(300), prior_draws(300)
    estimator.fit_standardization(theta_train, x_train)
    other.fit_standardization(theta_train * unit + zero, x_train * scale + offset)
    x, theta = observations(20, seed=1), prior_draws(20, seed=1)
    moved = other(x * scale + offset).log_prob(theta * unit + zero)
    jacobian = float(unit.log().sum())
    torch.testing.assert_close(moved + jacobian, estimator(x).log_prob(theta), rtol=1e-3, atol=2e-3)
    assert estimator.standardize(x_train).std(0, correction=0) == pytest.approx(1, abs=1e-4)


def test_features_that_hardly_vary_are_not_blown_up():
    estimator = make("gaussian")
    x = observations(100)
    x[:, 1] = 7.0
    estimator.fit_standardization(prior_draws(100), x)
    assert estimator.standardize.std[1] == estimator.standardize.std[[0, 2]].min()
    assert estimator(x).log_prob(prior_draws(100)).isfinite().all()


@each_estimator
def test_observations_of_the_wrong_size_are_named(name):
    with pytest.raises(ConfigError, match=r"x\.shape"):
        make(name)(observations(2, dim_x=4))


@each_estimator
def test_short_training_finds_a_known_posterior(name):
    task = linear_task()
    data, test = pairs(task, 2000), pairs(task, 500, seed=1)
    with draws_from(stream(0)):
        estimator = Estimator(from_conf("estimator", name), Identity, 2, 2, task.support)
    settings = TrainingSettings(batch_size=128, max_epochs=14, learning_rate=3e-3, decay_patience=2)
    train(estimator, NoDefense(), data, pairs(task, 500, seed=2), settings, stream(0))
    theta, x = test
    exact = task.true_posterior(x)
    with torch.no_grad(), draws_from(stream(0)):
        q = estimator(x)
        excess = float((exact.log_prob(theta) - q.log_prob(theta)).mean())
        samples = q.sample((100,))
        rank = (q.log_prob(samples) > q.log_prob(theta)).double().mean(0)
    assert -0.02 < excess < 0.1
    standardised = (samples - exact.mean) / exact.stddev
    assert standardised.mean((0, 1)) == pytest.approx(torch.zeros(2), abs=0.12)
    assert standardised.std((0, 1)) == pytest.approx(torch.ones(2), abs=0.12)
    # ranks of the truth are uniform for a calibrated posterior
    assert stats.kstest(rank.numpy(), "uniform").statistic < 0.1


def test_wrong_settings_are_named():
    with pytest.raises(ConfigError, match="equal width"):
        NflowsMAF(2, 3, hidden=(50, 100))
    with pytest.raises(ConfigError, match="transforms"):
        NflowsNSF(2, 3, transforms=1)
    with pytest.raises(ConfigError, match="bins"):
        NflowsNSF(2, 3, bins=1)
    with pytest.raises(ConfigError, match="bound"):
        NflowsNSF(2, 3, bound=-1.0)
    with pytest.raises(ConfigError, match="components"):
        MixtureDensityNetwork(2, 3, components=0)
    with pytest.raises(ConfigError, match="dim_out"):
        from_conf("embedding", "mlp", skip=["dim_out"], dim_out=0)(3)
    with pytest.raises(ConfigError, match="hidden"):
        from_conf("embedding", "mlp", skip=["hidden"], hidden=[0])(3)


@each_estimator
def test_names_are_those_of_the_configuration(name):
    assert make(name).name == name
    assert math.isfinite(sum(float(p.detach().sum()) for p in make(name).parameters()))
