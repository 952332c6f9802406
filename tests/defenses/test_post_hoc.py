"""Ensembles and smoothing: what is made of trained networks; see also `test_resampling.py`."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal

import robust_npe as rn
from robust_npe.attacks import std_unit
from robust_npe.checks import ConfigError
from robust_npe.defenses import (
    Ensemble,
    EnsemblePosterior,
    NoDefense,
    NoiseAugmentation,
    SmoothedPosterior,
    Smoothing,
    smoothing,
)
from robust_npe.defenses.smoothing import coupled_normal
from robust_npe.divergences import kl, kl_with_error
from robust_npe.estimators import DiagonalGaussian
from robust_npe.metrics import Context, SmoothingBias
from robust_npe.random import stream
from robust_npe.tasks import SIR, Toy
from robust_npe.training import TrainingSettings
from tests.helpers import linear_task, make_estimator, observations, pairs, prior_draws

TASK = linear_task()
SIGMA = 0.5


def gaussian(d, c):
    return DiagonalGaussian(d, c, hidden=[16])


def smoothed(x):
    """E_u q(.|x + u) of the exact posterior q, whose mean is linear in x."""
    q = TASK.true_posterior(x)
    slope = torch.diag(q.covariance_matrix[0].diagonal() * TASK.slopes / TASK.noise_std**2)
    return MultivariateNormal(
        q.mean, q.covariance_matrix + (SIGMA * slope).to(x.dtype).matrix_power(2)
    )


def estimate(draws):
    return SmoothedPosterior(TASK.true_posterior, SIGMA, TASK.dim_x, draws).double()


def test_smoothing_approaches_the_closed_form_as_draws_grow():
    theta, x = (t.double() for t in pairs(TASK, 200))
    exact = smoothed(x).log_prob(theta)
    errors = {m: float((estimate(m)(x).log_prob(theta) - exact).abs().mean()) for m in (16, 4096)}
    assert errors[16] > 0.1  # there is something to converge
    assert errors[4096] < 0.04
    unsmoothed = TASK.true_posterior(x).log_prob(theta) - exact
    assert float(unsmoothed.abs().mean()) > 0.3


@pytest.mark.parametrize("distance", [0.1, 0.5, 1.5])
def test_divergences_stay_below_the_certificate(distance):
    x = pairs(TASK, 20)[1].double()
    direction = torch.randn(x.shape, generator=stream(1), dtype=x.dtype)
    x_adv = x + distance * direction / direction.norm(dim=-1, keepdim=True)
    q, bound = estimate(1024), distance**2 / (2 * SIGMA**2)
    for p, other in ((q(x), q(x_adv)), (q(x_adv), q(x))):
        value, error = kl_with_error(p, other, 2000, stream(2))
        assert (value < bound + 4 * error + 0.02 * bound).all()
    assert float(kl(TASK.true_posterior(x), TASK.true_posterior(x_adv), 1, stream(0)).max()) > bound


def test_a_smoothed_posterior_is_a_function_of_x(monkeypatch):
    q = SmoothedPosterior(make_estimator(gaussian), 0.4, 3, 8)
    x, theta = observations(5), prior_draws(5)
    again = SmoothedPosterior(q.posterior, 0.4, 3, 8)
    assert torch.equal(q(x).log_prob(theta), again(x).log_prob(theta))
    assert torch.equal(kl(q(x), again(x), 50, stream(0)), torch.zeros(5))
    by_hand = torch.stack([q.posterior(x + 0.4 * z).log_prob(theta).exp() for z in q.noise])
    torch.testing.assert_close(q(x).log_prob(theta).exp(), by_hand.mean(0))
    monkeypatch.setattr(smoothing, "NUMBERS", 3 * x.numel())  # several passes
    assert len(q(x).parts) == 3
    torch.testing.assert_close(q(x).log_prob(theta).exp(), by_hand.mean(0))
    torch.testing.assert_close(q(x[2:3]).log_prob(theta[2:3]), q(x).log_prob(theta)[2:3])


@pytest.mark.parametrize(("num", "dim"), [(64, 5), (8, 30), (400, 2)])
def test_draws_of_the_noise_are_standard_normal_and_balanced(num, dim):
    z = coupled_normal(num, dim, stream(0))
    assert z.shape == (num, dim)
    torch.testing.assert_close(z[: num // 2], -z[num // 2 :])
    block = z[: min(dim, num // 2)]
    products = block @ block.T
    torch.testing.assert_close(products, torch.diag(products.diagonal()))
    many = torch.cat([coupled_normal(num, dim, stream(i)) for i in range(20_000 // num)])
    torch.testing.assert_close(many.T @ many / len(many), torch.eye(dim).double(), rtol=0, atol=0.1)
    assert float(many.abs().mean()) == pytest.approx((2 / torch.pi) ** 0.5, rel=0.02)


@pytest.mark.parametrize("task", [TASK, SIR()])
def test_sigma_is_in_the_unit_of_epsilon(task):
    posterior = Smoothing(NoDefense(), 0.5).deploy([make_estimator(gaussian)], task)
    x = rn.simulate(task, 4000)[1]
    assert posterior.sigma == pytest.approx(0.5 * std_unit(x), rel=0.05)
    absolute = Smoothing(NoDefense(), 0.5, unit="absolute").deploy([lambda x: x], task)
    assert absolute.sigma == 0.5


def test_a_single_feature_has_no_spread_to_measure_sigma_in():
    with pytest.raises(ConfigError, match=r"defense.unit='std' .* absolute"):
        Ensemble(Smoothing(NoDefense())).check(Toy())
    Smoothing(NoDefense(), unit="absolute").check(Toy())


def test_an_ensemble_is_the_mean_of_networks_of_several_seeds():
    settings = TrainingSettings(max_epochs=1, min_epochs=1)
    task, x, theta = TASK, pairs(TASK, 6)[1], pairs(TASK, 6)[0]

    def trained(defense, seed=0):
        return rn.train(task, gaussian, defense, 200, settings=settings, seed=seed)

    q = trained(Ensemble(NoiseAugmentation(0.5), 3))
    density = torch.stack([member(x).log_prob(theta).exp() for member in q.posteriors]).detach()
    torch.testing.assert_close(q(x).log_prob(theta).exp().detach(), density.mean(0))
    assert float(density.std(0).min()) > 0
    alone = trained(NoiseAugmentation(0.5))
    assert torch.equal(alone(x).log_prob(theta).exp(), density[0])
    assert len(list(q.parameters())) == 3 * len(list(alone.parameters()))


def test_post_hoc_defenses_of_post_hoc_defenses():
    nested = Smoothing(Ensemble(NoDefense(), 2), 0.3, 4, "absolute")
    members = [make_estimator(gaussian, gain=g) for g in (1.0, 1.5)]
    assert nested.num_members == 2
    q = nested.deploy(members, TASK)
    x, theta = observations(4), prior_draws(4)
    assert isinstance(q.posterior, EnsemblePosterior)
    noise = SmoothedPosterior(None, 0.3, 2, 4).noise  # made for the task's two features
    q.noise = torch.nn.functional.pad(noise, (0, 1))
    every = [m(x + 0.3 * z).log_prob(theta).exp() for m in members for z in q.noise]
    torch.testing.assert_close(q(x).log_prob(theta).exp(), torch.stack(every).mean(0))


def test_smoothing_bias_is_the_change_from_twice_the_draws():
    theta, x = pairs(TASK, 50)
    q = SmoothedPosterior(TASK.true_posterior, SIGMA, TASK.dim_x, 8)
    context = Context(TASK, q, theta, x, x + 0.3, True, 0, 16)
    found = {m.metric: m.per_observation for m in SmoothingBias(200)(context)}
    expected = q.with_draws(16)(x + 0.3).log_prob(theta) - q(x + 0.3).log_prob(theta)
    torch.testing.assert_close(found["smoothing_bias"], expected)
    assert float(found["smoothing_bias"].abs().mean()) > 0.01
    assert float(found["smoothing_bias_kl"].abs().mean()) > 0.01
    clean = Context(TASK, q, theta, x, x, False, 0, 16)
    assert [m.metric for m in SmoothingBias()(clean)] == ["smoothing_bias"]
    assert SmoothingBias()(Context(TASK, TASK.true_posterior, theta, x, x, True, 0)) == []


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (lambda: Smoothing(NoDefense(), 0.0), "sigma"),
        (lambda: Smoothing(NoDefense(), draws=7), "draws"),
        (lambda: Smoothing(NoDefense(), unit="noise"), "unit"),
        (lambda: Ensemble(NoDefense(), 0), "members"),
        (lambda: SmoothingBias(0), "num_samples"),
    ],
)
def test_settings_are_checked(wrong, name):
    with pytest.raises(ConfigError, match=name):
        wrong()
