"""What PGD returns of all that it has visited, and where it starts."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, Normal

from robust_npe.attacks import PGD, KLForward, NegativeLogLikelihood, Noise, make_ball
from robust_npe.estimators import MAF, DiagonalGaussian
from robust_npe.random import stream
from tests.attacks.test_pgd import TASK, Value, half_square, movement_matrix, true_value
from tests.helpers import make_estimator, observations, pairs


def test_best_iterate_is_kept_where_the_last_one_is_worse():
    x = torch.zeros(50, 2)
    ball = make_ball("l2", 1.0)
    oscillating = {"steps": 7, "step_size": 0.9, "schedule": "constant"}

    def height(delta):  # a narrow ring that large steps jump over
        return -((delta.norm(dim=-1) - 0.3) ** 2)

    results = {}
    for select in ("best", "last"):
        attack = PGD(Value(height), select=select, **oscillating)
        results[select] = height(attack(None, x, ball=ball, generator=stream(0)))
    assert (results["best"] >= results["last"]).all()
    assert float((results["best"] > results["last"] + 0.01).float().mean()) > 0.3


def test_best_iterate_is_judged_with_fresh_numbers():
    # the first binding values what its gradient leads away from; the second one, the judge,
    # values where it leads to
    x = torch.zeros(20, 2)

    def loves_start(delta):
        return delta[:, 0] - 2 * delta[:, 0].detach()

    steps = {"steps": 5, "step_size": 0.5}
    fooled = PGD(Value(loves_start), **steps)
    honest = PGD(Value(loves_start, lambda d: d[:, 0]), **steps)
    last = PGD(Value(loves_start), select="last", **steps)
    fooled, honest, last = (
        attack(None, x, ball=make_ball("l2", 1.0), generator=stream(0))
        for attack in (fooled, honest, last)
    )
    assert torch.equal(honest, last)
    assert (fooled[:, 0] < last[:, 0] - 0.1).any()


def test_best_is_at_least_as_good_as_last_on_fresh_noise():
    nonlinear, x = make_estimator(MAF, gain=1.7), observations(60)
    value = {}
    for select in ("best", "last"):
        attack = PGD(KLForward(2), 12, step_size=0.8, schedule="constant", select=select)
        x_adv = attack(nonlinear, x, ball=make_ball("l2", 1.5), generator=stream(0))
        value[select] = true_value(nonlinear, x, x_adv)
    assert float(value["best"].mean()) > float(value["last"].mean())


def test_values_that_are_not_finite_are_never_chosen():
    def cliff(delta):  # rises towards a place where it breaks
        return delta[:, 0].where(delta[:, 0] < 0.5, torch.nan)

    def spike(delta):
        return delta[:, 0].where(delta[:, 0] < 0.5, torch.inf)

    x = torch.zeros(30, 2)
    for function in (cliff, spike):
        attack = PGD(Value(function), steps=6, step_size=0.4, start=0.2)
        delta = attack(None, x, ball=make_ball("l2", 1.0), generator=stream(0))
        assert (delta[:, 0] < 0.5).all()
        assert (delta[:, 0] > 0).all()


def test_ball_of_radius_zero_returns_the_observation():
    x, q = observations(3), make_estimator(DiagonalGaussian)
    attack, ball = PGD(KLForward(), steps=3), make_ball("l2", 0.0)
    assert torch.equal(attack(q, x, ball=ball, generator=stream(0)), x)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"step_size": 0.0},
        {"schedule": "linear"},
        {"start": 0.0},
        {"start": 1.5},
        {"select": "worst"},
    ],
)
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PGD(KLForward(), **wrong)


def test_rows_do_not_influence_each_other():
    # a row whose gradient is not finite must not spoil its neighbours
    def posterior(x):
        broken = torch.where(x[:, :1] > 100, torch.nan, 0.0)
        return Independent(Normal(x + broken, torch.ones_like(x), validate_args=False), 1)

    clean = observations(3)
    with_broken = clean.clone()
    with_broken[1] = 1000.0
    attack, ball = PGD(NegativeLogLikelihood(), steps=4), make_ball("l2", 1.0)
    theta = torch.zeros(3, 3)
    a, b = (attack.search(posterior, x, theta, ball, stream(0)) for x in (clean, with_broken))
    assert torch.equal(a.x_adv[[0, 2]], b.x_adv[[0, 2]])
    assert b.x_adv.isfinite().all()
    assert a.zero_gradients.tolist() == [0, 0, 0]
    assert b.zero_gradients.tolist() == [0, 1, 0]


def test_share_of_steps_without_a_gradient():
    def plateau(delta):  # flat where the first coordinate is large
        return delta[:, 0].clamp(max=0.55)

    x, ball = torch.zeros(40, 1), make_ball("linf", 1.0)
    steps = {"steps": 10, "step_size": 0.1, "schedule": "constant", "start": 1e-6}
    found = PGD(Value(plateau), **steps).search(None, x, None, ball, stream(0))
    torch.testing.assert_close(found.zero_gradients, torch.full((40,), 0.4))  # after six steps
    flat = PGD(Value(lambda d: 0 * d[:, 0]), **steps).search(None, x, None, ball, stream(0))
    assert (flat.zero_gradients == 1).all()
    assert Noise().search(None, x, None, ball, stream(0)).zero_gradients is None


def test_an_attack_with_a_radius_for_each_row():
    x = pairs(TASK, 6)[1].double()
    radii = torch.tensor([0.0, 0.1, 0.2, 0.0, 0.4, 0.8])
    optimum = 0.5 * radii.double() ** 2 * movement_matrix(TASK).max()
    ball = make_ball("l2", radii)
    x_adv = PGD(KLForward())(TASK.true_posterior, x, ball=ball, generator=stream(0))
    torch.testing.assert_close(half_square(x_adv - x), optimum, rtol=0.01, atol=0)
    assert (ball.norm(x_adv - x) <= radii + 1e-6).all()


def test_a_warm_start_begins_where_it_is_told():
    x, ball = torch.zeros(3, 2), make_ball("l2", 1.0)
    initial = torch.tensor([[0.5, 0.0], [0.0, -0.25], [3.0, 0.0]])
    attack = PGD(Value(lambda d: 0 * d[:, 0]), steps=2)  # flat: it stays where it is
    found = attack.search(None, x, None, ball, stream(0), initial)
    expected = torch.tensor([[0.5, 0.0], [0.0, -0.25], [1.0, 0.0]])
    torch.testing.assert_close(found.x_adv, expected)
