from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch.distributions import Independent, MultivariateNormal, Normal

from robust_npe.attacks import (
    L1,
    L2,
    PGD,
    CoverageBreaking,
    KLForward,
    Linf,
    MeanShift,
    minimal_radius,
)
from robust_npe.checks import ConfigError
from robust_npe.random import stream
from tests.helpers import NoClosedForm

SLOPES = torch.tensor([[2.0, -1.0, 0.5], [0.5, 1.0, 1.0]])
ROWS = torch.tensor([1.0, 3.0, 0.4, 1.0])  # how steep the posterior is at each observation


def gaussian(x):
    """Its KL is |steepness * SLOPES delta|^2 / 2; the steepness is the last feature, rounded."""
    mean = x[:, 3:].round(decimals=1).detach() * (x[:, :3] @ SLOPES.T.to(x))
    return MultivariateNormal(mean, torch.eye(2, dtype=x.dtype))


def hidden(x):
    return NoClosedForm(gaussian(x))


def observations():
    x = torch.randn(4, 3, generator=stream(0, "x"), dtype=torch.float64)
    return torch.cat((x, ROWS.to(x).unsqueeze(-1)), -1)


def ball_of(norm, scale=1.0):
    """The last feature must stay as it is."""
    x = observations()
    sizes = torch.tensor([scale, scale, scale, 1e-9], dtype=torch.float64)

    def ball(radius):
        return norm(radius, sizes, (x.amin(0) - 100, x.amax(0) + 100))

    return ball


def search(norm, posterior=gaussian, criterion=None, threshold=1.0, scale=1.0, **settings):
    x, criterion = observations(), criterion or KLForward(2)
    attack = PGD(KLForward(2), steps=40)
    given = (attack, posterior, x, None, ball_of(norm, scale), criterion, threshold)
    return minimal_radius(*given, **{"largest": 4.0, "generator": stream(0), **settings})


def largest_quadratic(norm):
    """max |SLOPES delta|^2 / 2 over the unit ball: an eigenvalue, corners, or vertices."""
    gram = SLOPES.double().T @ SLOPES.double()
    if norm is L2:
        return float(torch.linalg.eigvalsh(gram)[-1]) / 2
    if norm is L1:
        return float(gram.diagonal().max()) / 2
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    return float((corners @ gram * corners).sum(-1).max()) / 2


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("norm", [L1, L2, Linf])
def test_radius_of_a_linear_gaussian(norm, scale):
    found = search(norm, threshold=0.3, scale=scale)
    expected = (0.3 / largest_quadratic(norm)) ** 0.5 / ROWS.double() / scale
    assert (found.radius / expected - 1).abs().max() < 0.015
    ball = ball_of(norm, scale)(found.radius * (1 + 1e-9))
    torch.testing.assert_close(ball.feasible(observations(), found.x_adv), found.x_adv)
    p, q = gaussian(observations()), gaussian(found.x_adv)
    kl = torch.distributions.kl_divergence(p, q)
    assert (kl > 0.3).all()  # what is reported does break
    assert (kl < 0.31).all()


def test_radius_from_samples():
    found = search(L2, hidden, num_samples=4000)
    expected = (1 / largest_quadratic(L2)) ** 0.5 / ROWS
    assert (found.radius / expected - 1).abs().max() < 0.03


def test_radius_that_shifts_the_mean():
    # in L2 the attack's direction is that of the largest shift, in standard deviations of 1
    found = search(L2, criterion=MeanShift(), threshold=0.5)
    expected = 0.5 / (2 * largest_quadratic(L2)) ** 0.5 / ROWS
    assert (found.radius / expected - 1).abs().max() < 0.015


def test_infinite_where_nothing_breaks_and_zero_where_x_does():
    found = search(L2, largest=0.5)
    expected = (1 / largest_quadratic(L2)) ** 0.5 / ROWS
    assert torch.equal(found.radius.isinf(), expected > 0.5)
    assert found.radius.isinf().any()
    assert not found.radius.isinf().all()
    still = found.radius.isinf()
    assert torch.equal(found.x_adv[still], observations()[still])
    assert torch.equal(search(L2, threshold=-1.0).radius, torch.zeros(4, dtype=torch.float64))


def test_radius_that_drives_theta_out_of_its_region():
    """theta ~ N(x, 1): it leaves the 90 % interval at a distance of 1.645."""

    def posterior(x):
        return Independent(Normal(x[:, :1], torch.ones_like(x[:, :1])), 1)

    x = torch.zeros(5, 2)
    theta = torch.tensor([[0.0], [1.0], [-1.0], [1.6], [2.0]])
    attack, criterion = PGD(CoverageBreaking(32), steps=40), CoverageBreaking()
    given = (attack, posterior, x, theta, L2, criterion, 0.9, 4.0, stream(0))
    found = minimal_radius(*given, num_samples=20_000)
    expected = (stats.norm.ppf(0.95) - theta.abs().squeeze(-1)).clamp(min=0)
    assert (found.radius - expected).abs().max() < 0.03


def test_each_search_can_only_help():
    radii = [search(L2, searches=n, generator=stream(1)).radius for n in (1, 3, 6)]
    assert (radii[0] >= radii[1]).all()
    assert (radii[1] >= radii[2]).all()


@pytest.mark.parametrize(
    "wrong", [{"largest": 0.0}, {"searches": 0}, {"tolerance": 0.0}, {"num_samples": 3}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        search(L2, **wrong)
