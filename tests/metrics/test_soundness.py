"""The right flag fires on each planted posterior, and none on an honest one."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from robust_npe.attacks import (
    L2,
    PGD,
    Expectation,
    Found,
    KLForward,
    Linf,
    NegativeLogLikelihood,
    Noise,
    StandardEvaluation,
)
from robust_npe.metrics import Context, Soundness
from robust_npe.metrics.soundness import FLAGS, flags
from robust_npe.random import draws_from, stream
from tests.helpers import linear_task
from tests.planted import PLANTED, observations


def context_of(posterior, attack, found=None, ball=L2, epsilon=1.0, num=32):
    x, task = observations(num), linear_task()
    theta = torch.zeros(num, 2)
    with draws_from(stream(7)):
        found = found or attack.search(posterior, x, theta, ball(1.0), stream(0, "attack"))
    last = 0, 512, attack, ball, epsilon, found
    return Context(task, posterior, theta, x, found.x_adv, True, *last)


def measured(context, **settings):
    (measurement,) = Soundness(**settings)(context)
    assert measurement.metric == "soundness"
    return {row["statistic"]: row["value"] for row in measurement.rows}


def fired(context, **settings):
    values = measured(context, **settings)
    found = {name for name, value in values.items() if name in FLAGS and FLAGS[name].fires(value)}
    assert values["flagged"] == len(found - {"stronger"})
    return found


EXPECTED = {
    "linear": set(),
    "saturated": {"gradient_error"},
    "quantised": {"gradient_error", "quadratic_ratio"},
    "rounded": {"gradient_error", "zero_gradients", "quadratic_ratio"},
    "kink": {"zero_gradients"},
    "noisy": {"gradient_error", "random", "kl_at_zero"},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_cheap_flags_of_planted_posteriors(name):
    found = fired(context_of(PLANTED[name], PGD(KLForward(), steps=50)))
    assert found >= EXPECTED[name]
    assert "black_box" not in found
    if name == "linear":
        assert not found


@pytest.mark.parametrize(
    ("name", "expected"),
    [("linear", set()), ("narrow", {"stronger", "quadratic_ratio"}), ("saturated", {"stronger"})],
)
def test_thorough_flags_check_the_standard_evaluation(name, expected):
    values = context_of(PLANTED[name], StandardEvaluation(KLForward()))
    found = fired(values)
    assert found >= expected
    assert "black_box" not in found  # it has looked for that itself
    assert found or name == "linear"
    assert not found or name != "linear"


def test_black_box_attacks_win_where_gradients_are_hidden():
    attack = PGD(KLForward(), steps=30)
    assert "black_box" not in measured(context_of(PLANTED["linear"], attack))
    assert "black_box" in fired(context_of(PLANTED["quantised"], attack), thorough=True)
    assert "black_box" not in fired(context_of(PLANTED["linear"], attack), thorough=True)


def test_a_weak_attack_is_told_from_the_second_order():
    posterior, x = PLANTED["linear"], observations(32)
    worst = posterior(torch.eye(20)).mean[:, 0] / 3  # a unit vector: the mean is linear
    aside = torch.linalg.qr(torch.stack((worst, torch.eye(20)[0]), -1)).Q[:, 1]
    values = measured(context_of(posterior, PGD(KLForward()), Found(x + 0.3 * worst)))
    assert values["quadratic_ratio"] == pytest.approx(1, abs=0.1)  # of the way that it went
    weak = Found(x + 0.4 * worst + 0.84**0.5 * aside)
    context = context_of(posterior, PGD(KLForward()), weak)
    assert measured(context)["quadratic_ratio"] == pytest.approx(0.16, abs=0.02)
    assert fired(context) == {"quadratic_ratio"}


def test_what_does_not_apply_is_left_out():
    q = PLANTED["linear"]
    at_x = {"random", "kl_at_zero", "flagged"}
    assert set(measured(context_of(q, Noise()))) == at_x
    pgd = PGD(NegativeLogLikelihood(), steps=5)
    assert set(measured(context_of(q, pgd))) == at_x | {"zero_gradients", "gradient_error"}
    pgd = PGD(KLForward(), steps=5)
    assert "quadratic_ratio" not in measured(context_of(q, pgd, ball=Linf))
    assert "quadratic_ratio" in measured(context_of(q, pgd))
    # made for posteriors that are random
    pgd = PGD(Expectation(KLForward(), 4), steps=5)
    assert not at_x & set(measured(context_of(PLANTED["noisy"], pgd))) - {"flagged"}


def test_no_measurement_without_an_attack_or_at_radius_zero():
    c = context_of(PLANTED["linear"], PGD(KLForward(), steps=2))
    clean = Context(c.task, c.posterior, c.theta, c.x, c.x, False, 0)
    elsewhere = Context(c.task, c.posterior, c.theta, c.x, c.x_adv, True, 0)
    for context in (clean, elsewhere, context_of(c.posterior, c.attack, epsilon=0.0)):
        assert Soundness()(context) == []


def table(*rows):
    names = ("epsilon", "metric", "statistic", "value")
    return pd.DataFrame([dict(zip(names, row, strict=True)) for row in rows])


def test_sentences_name_radii_and_the_worst_value():
    found = flags(
        table(
            (0.5, "soundness", "gradient_error", 0.4),
            (2.0, "soundness", "gradient_error", 0.9),
            (1.0, "soundness", "gradient_error", 0.01),
            (0.5, "soundness", "quadratic_ratio", 0.1),
            (2.0, "soundness", "quadratic_ratio", 6.0),
            (2.0, "soundness", "random", 0.0),
            (2.0, "coverage", "random", 1.0),
            (0.0, "soundness", "random", 1.0),
        )
    )
    assert set(found) == {"gradient_error", "quadratic_ratio"}
    told = "soundness at epsilon 0.5, 2: gradients miss 90 % "
    assert found["gradient_error"].startswith(told)
    assert "finds 0.1 times what" in found["quadratic_ratio"]
    assert "the attack is weak" in found["quadratic_ratio"]


def test_zero_gradients_are_told_once_with_or_without_the_metric():
    rows = [(1.0, "attack", "zero_gradient_fraction", 0.5)]
    (alone,) = flags(table(*rows)).values()
    assert "no gradient in 50 % of its steps" in alone
    (both,) = flags(table(*rows, (1.0, "soundness", "zero_gradients", 0.5))).values()
    assert both == alone
    assert flags(table((1.0, "attack", "zero_gradient_fraction", 0.04))) == {}


@pytest.mark.parametrize("name", FLAGS)
def test_every_flag_has_something_to_say(name):
    flag = FLAGS[name]
    assert not flag.fires(flag.high)
    assert flag.fires(flag.high + 0.2)
    assert len(flag.meaning(flag.high + 0.2)) > 30
