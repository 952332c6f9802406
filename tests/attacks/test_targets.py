from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, Normal

from robust_npe.attacks import NES, PGD, TargetPosterior, TargetTheta, make_ball, standard
from robust_npe.attacks.halving import Round
from robust_npe.checks import ConfigError
from robust_npe.estimators import MAF, DiagonalGaussian
from robust_npe.random import stream
from tests.attacks.test_objectives import hidden, posterior
from tests.helpers import gaussian_kl, make_estimator, observations


@pytest.fixture
def x():
    return torch.randn(4, 3, generator=stream(0), dtype=torch.float64)


@pytest.mark.parametrize("q", [posterior, hidden], ids=["closed", "sampled"])
def test_distance_to_the_next_observations_posterior(q, x):
    x_adv = x + 0.3
    climb = TargetPosterior(num_samples=40_000)(q, x, None, stream(0))
    target = posterior(torch.cat((x[1:], x[:1])))
    expected = -gaussian_kl(target, posterior(x_adv))
    torch.testing.assert_close(climb(x_adv), expected, rtol=0.05, atol=0.05)
    other = TargetPosterior(shift=-1)(posterior, x, None, stream(0))
    expected = -gaussian_kl(posterior(torch.cat((x[3:], x[:3]))), posterior(x_adv))
    torch.testing.assert_close(other(x_adv), expected)


def test_steps_and_scores_estimate_the_same(x):
    climb = TargetPosterior(num_samples=5)(hidden, x, None, stream(0))
    assert torch.equal(climb(x), climb(x))
    assert torch.equal(climb.fixed(7)(x), climb.fixed(7)(x))
    steps = torch.stack([climb.step(x) for _ in range(40)])
    expected = TargetPosterior()(posterior, x, None, stream(0))(x)
    torch.testing.assert_close(steps.mean(0), expected, rtol=0.3, atol=0.1)


def linear(y):
    """The mean is the first two features."""
    return Independent(Normal(y[:, :2], 0.5), 1)


@pytest.mark.parametrize("attack", [PGD, NES])
def test_reaches_the_nearest_posterior_in_the_ball(attack, x):
    """For N(x_1:2, 1/4) that is the one on the way to the target."""
    ball = make_ball("l2", 0.4)
    x_adv = attack(TargetPosterior())(linear, x, ball=ball, generator=stream(0))
    way = (x.roll(-1, 0) - x)[:, :2]
    expected = way / (way.norm(dim=-1, keepdim=True) / 0.4).clamp(min=1)
    slack = 0.02 if attack is PGD else 0.2
    torch.testing.assert_close((x_adv - x)[:, :2], expected, rtol=0, atol=slack)


def test_reaches_the_target_where_it_is_in_the_ball():
    estimator, x = make_estimator(MAF, gain=1.5), observations(2)
    ball = make_ball("l2", 1.01 * float((x[0] - x[1]).norm()))
    climb = TargetPosterior(num_samples=200)(estimator, x, None, stream(1))
    x_adv = PGD(TargetPosterior(num_samples=8))(estimator, x, ball=ball, generator=stream(0))
    assert (climb(x) < -0.05).all()
    assert (climb(x_adv) > 0.2 * climb(x)).all()


def test_density_at_given_parameters(x):
    wanted = [0.3, -1.0]
    climb = TargetTheta(wanted)(posterior, x, None, stream(0))
    torch.testing.assert_close(climb(x), posterior(x).log_prob(torch.tensor(wanted).double()))
    ball = make_ball("linf", 0.2)
    x_adv = PGD(TargetTheta(wanted))(linear, x, ball=ball, generator=stream(0))
    best = (torch.tensor(wanted) - x[:, :2]).clamp(-0.2, 0.2)
    torch.testing.assert_close((x_adv - x)[:, :2], best, rtol=0, atol=0.01)


def test_one_observation_has_no_other(x):
    with pytest.raises(ConfigError, match=r"objective.shift=1 .*attacked together, 1"):
        TargetPosterior()(posterior, x[:1], None, stream(0))
    with pytest.raises(ConfigError, match=r"objective.shift=8 .*attacked together, 4"):
        TargetPosterior(8)(posterior, x, None, stream(0))
    with pytest.raises(ConfigError, match=r"objective.shift=1 .*attacked together, 1"):
        PGD(TargetPosterior()).check_posterior(posterior, x[:1])
    with pytest.raises(ConfigError, match=r"objective.shift=0"):
        TargetPosterior(0)


def test_parameters_must_be_as_many_as_there_are(x):
    with pytest.raises(ConfigError, match=r"objective.theta=\[1.0\] .*2 numbers"):
        PGD(TargetTheta([1.0])).check(2)
    PGD(TargetTheta([1.0, 2.0])).check(2)
    with pytest.raises(ConfigError, match=r"objective\.theta"):
        TargetTheta([])
    with pytest.raises(ConfigError, match=r"theta\.shape"):
        TargetTheta([1.0])(posterior, x, None, stream(0))(x)


def test_the_standard_evaluation_keeps_the_targets_of_the_whole_batch(monkeypatch):
    monkeypatch.setattr(standard, "ROUNDS", (Round(2, 3, 0.3),))
    monkeypatch.setattr(standard, "DATA", 2)
    monkeypatch.setattr(standard, "RANDOM", 2)
    x = observations(20)
    posterior = make_estimator(DiagonalGaussian)
    objective = TargetPosterior(shift=16)  # a multiple of the number of checked observations
    given = {"ball": make_ball("l2", 1.0), "generator": stream(0)}
    x_adv = standard.StandardEvaluation(objective)(posterior, x, **given)
    value = objective(posterior, x, None, stream(1))
    assert (value(x_adv) > value(x)).double().mean() > 0.9


def test_parameters_without_mass_are_no_target():
    posterior = make_estimator(DiagonalGaussian, "box")
    x = observations(4)
    with pytest.raises(ConfigError, match="where q has mass"):
        TargetTheta([99.0, 99.0])(posterior, x, None, stream(0))
