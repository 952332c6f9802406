from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, Normal

from robust_npe.attacks import PGD, KLForward, Noise, Transfer, make_ball
from robust_npe.checks import ConfigError
from robust_npe.estimators import MAF
from robust_npe.random import stream
from tests.attacks.test_pgd import true_value
from tests.helpers import make_estimator, observations

BALL = make_ball("l2", 1.5)


def test_from_a_network_to_itself_is_the_plain_attack():
    estimator, x, plain = make_estimator(MAF, gain=1.7), observations(20), PGD(KLForward(), 20)
    transfer = Transfer.from_posterior(estimator, plain)
    found = transfer.search(estimator, x, None, BALL, stream(0))
    expected = plain.search(estimator, x, None, BALL, stream(0))
    assert torch.equal(found.x_adv, expected.x_adv)
    assert torch.equal(found.zero_gradients, expected.zero_gradients)


def test_sees_what_the_attacked_posterior_hides():
    """The attacked posterior rounds its features; the source has the slopes."""

    def rounded(x):
        return Independent(Normal(8 * torch.round(2 * x[:, :1]) / 2, 1.0), 1)

    def smooth(x):
        return Independent(Normal(7 * x[:, :1] + x[:, 1:2], 1.0), 1)

    x, ball = torch.zeros(16, 20), make_ball("l2", 1.0)
    transfer = Transfer.from_posterior(smooth, PGD(KLForward()))
    x_adv = transfer(rounded, x, ball=ball, generator=stream(0))
    assert (rounded(x_adv).mean.abs() == 8).all()
    blind = PGD(KLForward())(rounded, x, ball=ball, generator=stream(0))
    assert float((rounded(blind).mean.abs() == 8).float().mean()) < 0.2


def test_what_is_found_on_a_stranger_is_weaker():
    estimator, stranger = (make_estimator(MAF, gain=gain) for gain in (1.7, 0.9))
    x, attack = observations(30), PGD(KLForward(), 20)
    values = [
        true_value(estimator, x, a(estimator, x, ball=BALL, generator=stream(0))).median()
        for a in (attack, Transfer.from_posterior(stranger, attack))
    ]
    assert values[1] < values[0]


class Two(Noise):
    def __init__(self, attacks):
        self.attacks = attacks


def test_sources_are_loaded_wherever_they_are_needed():
    inner = Transfer(Noise(), run="a")
    outer = Transfer(inner, run="b")
    Two([Noise(), outer]).load_sources(lambda run: f"posterior of {run}")
    assert (outer.source, inner.source) == ("posterior of b", "posterior of a")
    given = Transfer.from_posterior("given", Noise())
    given.load_sources(lambda run: None)
    assert given.source == "given"


def test_missing_sources_are_named():
    x = observations(2)
    with pytest.raises(ConfigError, match="no source"):
        Transfer(Noise()).search(make_estimator(MAF), x, None, BALL, stream(0))
    with pytest.raises(ConfigError, match=r"attack\.run is not set"):
        Two([Transfer(Noise())]).load_sources(lambda run: None)


def test_tables_name_the_objective_that_is_climbed():
    assert Transfer(PGD(KLForward())).objective.name == "kl_forward"
    assert Transfer(Noise()).objective is None
