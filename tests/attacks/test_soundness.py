from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal

from robust_npe.attacks import (
    L1,
    L2,
    PGD,
    CoverageBreaking,
    KLForward,
    KLReverse,
    Linf,
    NegativeLogLikelihood,
)
from robust_npe.attacks.soundness import (
    beats,
    best_attack,
    differs,
    gradient_error,
    kl_at_zero,
    quadratic_ratio,
)
from robust_npe.random import draws_from, stream
from tests.helpers import NoClosedForm
from tests.planted import PLANTED, noisy, observations
from tests.posteriors import SMOOTH, data, make


def error(posterior, objective=None, ball=None, x=None, theta=None):
    x = observations(32) if x is None else x
    ball, objective = ball or L2(1.0), objective or KLForward()
    return gradient_error(objective, posterior, x, theta, ball, stream(0))


@pytest.mark.parametrize(
    ("name", "blind"),
    [("linear", False), ("kink", False)]
    + [(name, True) for name in ("saturated", "quantised", "rounded", "noisy")],
)
def test_gradients_against_finite_steps_on_planted_posteriors(name, blind):
    with draws_from(stream(5)):  # one of them draws in every call
        found = error(PLANTED[name])
    assert found.shape == (32,)
    assert (float(found.median()) > 0.2) == blind
    assert blind or float(found.median()) < 0.03


@pytest.mark.parametrize("ball", [L1, L2, Linf])
@pytest.mark.parametrize("objective", [KLForward, KLReverse, NegativeLogLikelihood])
@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_of_smooth_posteriors_are_right_however_curved(name, objective, ball):
    posterior, task = make(name)
    theta, x = data(task, 8)
    found = error(posterior, objective(), ball(1.0), x, theta)
    # a network of few ReLUs has kinks, which the nodes of the quadrature miss
    assert float(found.median()) < (0.08 if name in ("estimator", "averaged") else 1e-3)


def test_no_error_where_gradients_are_not_those_of_the_values():
    posterior, task = make("mixture")
    theta, x = data(task, 4)
    assert error(posterior, KLReverse(), x=x) is None  # score function: other samples, other values
    assert error(posterior, KLForward(), x=x) is not None
    assert error(posterior, CoverageBreaking(), x=x, theta=theta) is None


def test_random_posteriors_differ():
    x = observations(16)
    with draws_from(stream(5)):
        assert differs(noisy, x, stream(0)).all()
        assert kl_at_zero(noisy, x, 64, stream(0)).float().mean() > 0.9
    for posterior in (PLANTED["linear"], PLANTED["rounded"]):
        assert not differs(posterior, x, stream(0)).any()
        assert not kl_at_zero(posterior, x, 64, stream(0)).any()


class Mismatched(NoClosedForm):
    """Densities of a wider distribution than the one that it draws from."""

    def log_prob(self, theta):
        return super().log_prob(theta / self.factor)

    factor = 1.0


def test_divergence_of_a_posterior_from_itself():
    calls = iter([1.0, 1.2])

    def posterior(x):
        q = Mismatched(PLANTED["linear"](x))
        q.factor = next(calls)
        return q

    assert kl_at_zero(posterior, observations(8), 4000, stream(0)).all()
    hidden = lambda x: NoClosedForm(PLANTED["linear"](x))  # noqa: E731
    assert not kl_at_zero(hidden, observations(8), 16, stream(0)).any()


@pytest.mark.parametrize("scale", [None, torch.tensor([0.5, 2.0, 1.0])])
@pytest.mark.parametrize("reverse", [False, True])
def test_ratio_is_that_of_directions_where_kl_is_quadratic(reverse, scale):
    slopes = torch.tensor([[2.0, -1.0, 0.5], [0.5, 1.0, 1.0]])
    x, ball = torch.randn(200, 3, generator=stream(1)), L2(0.7, scale)
    unit = torch.ones(3) if scale is None else scale
    gram = (slopes * unit).T @ (slopes * unit)
    values, vectors = torch.linalg.eigh(gram)

    def posterior(x):
        return MultivariateNormal(x @ slopes.T, torch.eye(2))

    for i in (2, 1):
        x_adv = x + 0.7 * unit * vectors[:, i]
        ratio = quadratic_ratio(posterior, x, x_adv, ball, reverse, 1, stream(0))
        # 64 samples of I_x: a relative error of sqrt(2 / 64) for each of 200 observations
        assert float(ratio.median()) == pytest.approx(float(values[i] / values[2]), rel=0.06)


def test_ratio_is_missing_where_it_means_nothing():
    x, direction = observations(4), PLANTED["linear"](torch.eye(20)).mean[:, 0]
    direction = direction / direction.norm()

    def ratio(posterior, radius, n=64):
        return quadratic_ratio(posterior, x, x + radius * direction, L2(9.0), False, n, stream(0))

    assert (ratio(PLANTED["linear"], 1.0) > 0.5).all()
    assert ratio(PLANTED["linear"], 4.0).isnan().all()  # 72 nats
    independent = lambda x: NoClosedForm(PLANTED["linear"](x))  # noqa: E731
    assert ratio(independent, 0.01, 8).isnan().all()  # 0.0005 nats from 8 samples
    assert (ratio(independent, 1.0, 1000) > 0.5).all()


def test_one_x_beats_another_beyond_the_error_of_the_comparison():
    def posterior(x):
        return NoClosedForm(Independent(Normal(x, torch.ones_like(x)), 1))

    x = torch.zeros(200, 1)
    kl = torch.full((200, 1), 0.5)  # of N(0, 1) and N(1, 1)
    for factor, gain, wins in ((1.05, 1.0, 0.0), (1.05, 1.3, 1.0), (1.5, 1.3, 0.0)):
        first = (2 * gain * kl).sqrt()
        won = beats(KLForward(), posterior, x, None, first, (2 * kl).sqrt(), factor, stream(0))
        assert float(won.double().mean()) == pytest.approx(wins, abs=0.05)


def test_multiples_of_negative_values_are_above_them():
    def posterior(x):
        return Independent(Normal(x, 0.01 * torch.ones_like(x)), 1)

    x, theta = torch.zeros(3, 1), torch.zeros(3, 1)
    lowest = -float(posterior(x).log_prob(theta)[0])
    assert lowest < -3
    near = torch.full((3, 1), 0.01 * (2 * 0.04 * -lowest) ** 0.5)  # nll higher by 4 %
    far = torch.full((3, 1), 0.01 * (2 * 0.06 * -lowest) ** 0.5)
    given = NegativeLogLikelihood(), posterior, x, theta
    assert not beats(*given, near, x, 1.05, stream(0)).any()
    assert beats(*given, far, x, 1.05, stream(0)).all()


def test_best_of_several_attacks():
    objective, x = KLForward(), observations(8)
    weak, strong = PGD(objective, steps=1, step_size=0.1), PGD(objective, steps=20)
    given = objective, PLANTED["linear"], x, None
    best = best_attack([weak, strong], *given, L2(1.0), stream(0))
    value = 0.5 * PLANTED["linear"](best).mean.square().sum(-1)
    assert (value > 0.95 * 4.5).all()
