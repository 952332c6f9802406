"""Planted vulnerabilities: the standard evaluation finds them, plain PGD finds few."""

from __future__ import annotations

import pytest
import torch

from robust_npe.attacks import (
    PGD,
    KLForward,
    KLReverse,
    SpectralAttack,
    StandardEvaluation,
    make_ball,
)
from robust_npe.divergences import kl
from robust_npe.random import draws_from, stream
from tests.planted import DETERMINISTIC, noisy, observations, planted_kl

BALL = make_ball("l2", 1.0)


def share_found(attack, name, seed=0):
    """KL reached over that of the worst case, for each observation."""
    posterior = DETERMINISTIC[name]
    x_adv = attack(posterior, observations(), ball=BALL, generator=stream(seed))
    return planted_kl(posterior, x_adv) / posterior.worst


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_worst_cases_are_right(name):
    posterior = DETERMINISTIC[name]
    angle = torch.linspace(0, 2 * torch.pi, 100_001)
    circle = torch.stack((angle.cos(), angle.sin()), -1)
    moved = posterior.mu(circle) - posterior.mu(torch.zeros(1, 2))
    largest = 0.5 * moved.square().sum(-1).max()
    torch.testing.assert_close(float(largest), posterior.worst, rtol=1e-3, atol=0)
    # the formula of the divergence, against torch's
    x_adv = BALL.sample(observations(), stream(3))
    expected = kl(posterior(observations()), posterior(x_adv), 1, stream(0))
    torch.testing.assert_close(planted_kl(posterior, x_adv), expected)


@pytest.mark.parametrize("objective", [KLForward(), KLReverse()], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_standard_evaluation_finds_them(name, objective):
    share = share_found(StandardEvaluation(objective), name)
    assert float(share.max()) <= 1 + 1e-5
    assert float(share.mean()) >= 0.95
    assert float(share.median()) >= 0.99


def test_plain_pgd_does_not():
    shares = {name: float(share_found(PGD(KLForward()), name).mean()) for name in DETERMINISTIC}
    assert shares["linear"] >= 0.99
    assert sum(shares.values()) / len(shares) <= 0.6


def test_the_spectral_attack_sees_second_order_only():
    assert float(share_found(SpectralAttack(KLForward()), "linear").min()) >= 0.99
    assert float(share_found(SpectralAttack(KLForward()), "narrow").max()) <= 0.1


def test_noise_of_the_posterior_does_not_hide_the_direction():
    x = observations()
    with draws_from(stream(0, "noise")):
        x_adv = StandardEvaluation(KLForward())(noisy, x, ball=BALL, generator=stream(0))
    share = planted_kl(DETERMINISTIC["linear"], x_adv) / DETERMINISTIC["linear"].worst
    assert float(share.mean()) > 0.5


def test_rows_whose_gradients_lead_nowhere_are_found_without_them():
    found = StandardEvaluation(KLForward()).search(
        DETERMINISTIC["rounded"], observations(40), None, BALL, stream(2)
    )
    assert (found.zero_gradients == 1).all()
    assert float(planted_kl(DETERMINISTIC["rounded"], found.x_adv).median()) == 32
