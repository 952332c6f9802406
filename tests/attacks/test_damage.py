"""Objectives against encoders, on an encoder whose best perturbation is known."""

from __future__ import annotations

import pytest
import torch

from robust_npe.attacks import (
    L2,
    PGD,
    Expectation,
    LatentShift,
    MaxDamage,
    NegativeLogLikelihood,
    Restarts,
    TargetedReconstruction,
)
from robust_npe.checks import ConfigError
from robust_npe.encoders import Encoder
from robust_npe.estimators import MAF, FullGaussian
from robust_npe.random import stream
from tests.encoders import HalfSpace
from tests.helpers import make_estimator, observations

POSTERIOR = HalfSpace()


def test_damage_is_the_mean_distance_of_decoded_draws():
    x = POSTERIOR.at(3)
    climb = MaxDamage(2)(POSTERIOR, x, None, stream(0))
    eta = torch.randn(40_000, 1, generator=stream(1))
    for shift in (0.0, 0.7):  # w . z is Gaussian
        x_adv = x + shift * POSTERIOR.u
        move = shift * POSTERIOR.u.square().sum() * POSTERIOR.w.norm()
        along = torch.logit(torch.tensor(0.1)) + move
        values = torch.sigmoid(along + POSTERIOR.sigma * POSTERIOR.w.norm() * eta)
        expected = float((values - 0.1).abs().mean())
        fine = climb.fixed(40_000)(x_adv)
        assert fine == pytest.approx(torch.full((3,), expected), rel=0.02)
    assert torch.equal(climb(x_adv), climb(x_adv))
    assert not torch.equal(climb.step(x_adv), climb.step(x_adv))  # fresh draws


def test_the_attack_goes_along_the_only_direction_that_matters():
    x = POSTERIOR.at(8)
    attack = Restarts(
        PGD(MaxDamage(), steps=30)
    )  # away from the half-space it does some damage, too
    x_adv = attack(POSTERIOR, x, ball=L2(0.8), generator=stream(0))
    direction = POSTERIOR.u / POSTERIOR.u.norm()
    along = (x_adv - x) @ direction
    assert (along > 0.78).all()
    damage = MaxDamage()(POSTERIOR, x, None, stream(1))
    noise = x + L2(0.8).surface(x, stream(2))
    assert (damage(x_adv) > 1.5 * damage(noise)).float().mean() > 0.8


@pytest.mark.parametrize("objective", [LatentShift, TargetedReconstruction])
def test_targets_are_approached_as_far_as_the_ball_allows(objective):
    direction = POSTERIOR.u / POSTERIOR.u.norm()
    distance = torch.tensor([0.0, 3.0, 0.2, -2.5])  # of each from its target: 3, -2.8, -2.7, 2.5
    x = POSTERIOR.at(4) + distance.unsqueeze(1) * direction
    attack = PGD(objective(), steps=60)
    x_adv = attack(POSTERIOR, x, ball=L2(0.5), generator=stream(0))
    along = (x_adv - x) @ direction
    assert along == pytest.approx(torch.tensor([0.5, -0.5, -0.5, 0.5]), abs=0.01)
    near = attack(POSTERIOR, x, ball=L2(4.0), generator=stream(0))
    reached = objective()(POSTERIOR, x, None, stream(1))(near)
    assert reached == pytest.approx(torch.zeros(4), abs=0.05)
    with pytest.raises(ConfigError, match="shift=4"):
        objective(4)(POSTERIOR, x, None, stream(0))


def test_without_a_decoder_the_draw_itself_is_damaged():
    posterior, x = make_estimator(FullGaussian, gain=1.5), observations(20)
    x_adv = PGD(MaxDamage(), steps=30)(posterior, x, ball=L2(1.0), generator=stream(0))
    damage = MaxDamage()(posterior, x, None, stream(1))
    with torch.no_grad():
        attacked, noisy, clean = (damage(v) for v in (x_adv, x + L2(1.0).surface(x, stream(2)), x))
        draws = Encoder(posterior)(x).sample(4000, stream(3))
        expected = (draws - Encoder(posterior)(x).mean).norm(dim=-1).mean(0)
    torch.testing.assert_close(clean, expected, rtol=0.2, atol=0)
    assert (attacked > noisy).all()


def test_posteriors_that_are_not_gaussian_are_refused_at_any_depth():
    attacks = PGD(MaxDamage()), Restarts(PGD(LatentShift())), PGD(Expectation(MaxDamage()))
    for attack in attacks:
        attack.check_posterior(make_estimator(FullGaussian), torch.zeros(2, 3))
        with pytest.raises(ConfigError, match="estimator=gaussian"):
            attack.check_posterior(make_estimator(MAF), torch.zeros(2, 3))


def test_attacks_need_theta_where_an_objective_does():
    assert not PGD(MaxDamage()).needs_theta
    for attack in (PGD(NegativeLogLikelihood()), PGD(Expectation(NegativeLogLikelihood()))):
        assert attack.needs_theta
        assert Restarts(attack).needs_theta
