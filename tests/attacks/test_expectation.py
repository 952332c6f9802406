from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, Normal

from robust_npe.attacks import (
    PGD,
    Expectation,
    KLForward,
    NegativeLogLikelihood,
    TargetTheta,
    make_ball,
)
from robust_npe.checks import ConfigError
from robust_npe.random import draws_from, stream

SLOPE = torch.tensor([1.0] + [0.0] * 19)


def noisy(x, scale=10.0):
    """N(x_0 + noise of the slope in all features, 1): one draw's gradient is mostly noise."""
    slopes = SLOPE + scale * torch.randn(len(x), 20) / 20**0.5
    return Independent(Normal((x * slopes).sum(-1, keepdim=True), 1.0), 1)


def along_the_truth(objective):
    x = torch.zeros(48, 20)
    theta = torch.full((48, 1), -20.0)  # far away: -log q rises with the mean
    attack = PGD(objective, steps=30)
    with draws_from(stream(3)):
        x_adv = attack(noisy, x, theta, ball=make_ball("l2", 1.0), generator=stream(0))
    return float((x_adv @ SLOPE).mean())


def test_beats_the_plain_attack_where_noise_hides_the_slope():
    plain = along_the_truth(NegativeLogLikelihood())
    expected = along_the_truth(Expectation(NegativeLogLikelihood(), 64))
    assert expected > 0.6
    assert plain < 0.6 * expected


def shifted(x):
    """The mean is x_0 plus one standard normal draw for each observation."""
    return Independent(Normal(x[:, :1] + torch.randn(len(x), 1), 1.0), 1)


def test_value_is_the_expected_divergence_between_independent_calls():
    """E KL = E (d + u - u')^2 / 2 = (d^2 + 2) / 2."""
    x = torch.zeros(400, 2)
    climb = Expectation(KLForward(), 50)(shifted, x, None, stream(0))
    value = climb(x + torch.tensor([1.5, 0.0]))
    error = float(value.std()) / 400**0.5
    assert abs(float(value.mean()) - (1.5**2 + 2) / 2) < 5 * error < 0.2


def test_scores_replay_the_draws_and_steps_do_not():
    x = torch.zeros(3, 2)
    climb = Expectation(KLForward(), 4)(shifted, x, None, stream(0))
    assert torch.equal(climb(x), climb(x))
    assert torch.equal(climb.fixed(5)(x), climb.fixed(5)(x))
    assert not torch.equal(climb.step(x), climb.step(x))
    state = torch.random.get_rng_state()
    climb.step(x)
    assert torch.equal(torch.random.get_rng_state(), state)
    again = Expectation(KLForward(), 4)(shifted, x, None, stream(0))
    assert torch.equal(climb(x), again(x))


def test_changes_nothing_where_nothing_is_random():
    x, x_adv = torch.zeros(3, 2), torch.ones(3, 2)

    def certain(y):
        return Independent(Normal(y, 1.0), 1)

    climb = Expectation(KLForward(), 3)(certain, x, None, stream(0))
    torch.testing.assert_close(climb(x_adv), torch.ones(3))
    torch.testing.assert_close(climb.step(x_adv), torch.ones(3))


def test_checks_what_it_averages():
    with pytest.raises(ConfigError, match=r"objective\.theta"):
        PGD(Expectation(TargetTheta([1.0]))).check(2)
    with pytest.raises(ConfigError, match="num_evaluations=0"):
        Expectation(KLForward(), 0)
