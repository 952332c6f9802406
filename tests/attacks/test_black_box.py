from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, Normal

from robust_npe.attacks import NES, PGD, KLForward, KLReverse, RandomSearch, make_ball
from robust_npe.estimators import MAF
from robust_npe.random import stream
from tests.attacks.test_pgd import NORMS, Value
from tests.helpers import NoClosedForm, make_estimator, observations

DIM = 20
ATTACKS = (RandomSearch(KLForward()), NES(KLForward()), NES(KLForward(), radius=1.0))


def along_the_first_feature(height, of=lambda q: q):
    """N(height(x_0), 1): the worst case is a change of the first feature alone."""
    return lambda x: of(Independent(Normal(height(x[:, :1]), 1.0), 1))


def share_of_the_worst(attack, norm, height, radius=1.0):
    """KL reached over that of the best change of the first feature, which is known."""
    x = torch.zeros(32, DIM)
    posterior = along_the_first_feature(height)
    x_adv = attack(posterior, x, ball=make_ball(norm, radius), generator=stream(1))
    levels = torch.linspace(-radius, radius, 1001)[:, None]
    worst = (height(levels) - height(torch.zeros(1, 1))).square().max()
    return (posterior(x_adv).mean - posterior(x).mean).square().sum(-1) / worst


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", ATTACKS, ids=["random", "nes 0.3", "nes 1"])
def test_reaches_most_of_a_linear_worst_case(attack, norm):
    reached = share_of_the_worst(attack, norm, lambda t: 3 * t)
    assert float(reached.max()) <= 1 + 1e-5
    assert float(reached.median()) > 0.85


@pytest.mark.parametrize("norm", NORMS)
def test_sees_what_rounding_hides_from_gradients(norm):
    def rounded(t):
        return 4 * torch.round(2 * t)

    reached = share_of_the_worst(NES(KLForward(), radius=1.0), norm, rounded)
    assert float((reached > 0.95).float().mean()) > 0.8
    blind = share_of_the_worst(PGD(KLForward()), norm, rounded)
    assert float(reached.mean()) > float(blind.mean()) + 0.3
    found = PGD(KLForward(), 5).search(
        along_the_first_feature(rounded), torch.zeros(3, DIM), None, make_ball(norm, 1), stream(0)
    )
    assert (found.zero_gradients == 1).all()


def test_random_search_finds_a_step_that_has_no_slope():
    reached = share_of_the_worst(ATTACKS[0], "l2", lambda t: 4 * (t > 0.5).float())
    assert float((reached > 0.95).float().mean()) > 0.5
    assert (
        float(share_of_the_worst(PGD(KLForward()), "l2", lambda t: (t > 0.5).float()).mean()) < 0.2
    )


@pytest.mark.parametrize("attack", ATTACKS, ids=["random", "nes 0.3", "nes 1"])
def test_asks_for_no_gradient_and_as_often_as_it_says(attack):
    asked = []

    def posterior(x):
        asked.append((torch.is_grad_enabled(), x.requires_grad))
        return Independent(Normal(x, 1.0), 1)

    found = attack.search(posterior, observations(4), None, make_ball("l2", 1), stream(0))
    assert found.zero_gradients is None
    assert set(asked) == {(False, False)}
    clean = 1
    assert attack.queries - 16 <= len(asked) - clean <= attack.queries


@pytest.mark.parametrize("attack", ATTACKS, ids=["random", "nes 0.3", "nes 1"])
def test_each_row_has_its_radius_and_units_their_size(attack):
    x, radii = observations(40), torch.linspace(0, 2, 40)
    unit = torch.tensor([0.01, 1.0, 100.0])
    slopes = torch.tensor([300.0, 2.0, 0.01])  # in units: 3, 2, 1
    ball = make_ball("l2", radii, unit)
    x_adv = attack(
        lambda y: Independent(Normal((y * slopes).sum(-1, keepdim=True), 1.0), 1),
        x.double(),
        ball=ball,
        generator=stream(0),
    )
    assert torch.equal(x_adv[0], x[0].double())
    assert (ball.norm(x_adv - x) <= radii + 1e-6).all()
    moved = ((x_adv - x) * slopes).sum(-1).abs()
    worst = radii * (slopes * unit).norm()
    assert float((moved / worst)[1:].min()) > 0.9


def test_values_that_are_not_finite_never_win():
    heights = Value(lambda d: torch.where(d[:, 0] > 0.8, torch.nan, d[:, 0]))
    for attack in (RandomSearch(heights), NES(heights)):
        x_adv = attack(None, torch.zeros(30, 3), ball=make_ball("l2", 1.0), generator=stream(0))
        assert float(x_adv[:, 0].max()) <= 0.8
        assert float(x_adv[:, 0].median()) > 0.7


@pytest.mark.parametrize("objective", [KLForward(), KLReverse()], ids=["forward", "reverse"])
def test_sampled_objectives_are_compared_on_common_numbers(objective):
    def hidden(x):
        return NoClosedForm(Independent(Normal(3 * x[:, :1], 1.0), 1))

    x, ball = torch.zeros(16, 5), make_ball("l2", 1.0)
    x_adv = RandomSearch(objective, num_samples=2)(hidden, x, ball=ball, generator=stream(0))
    assert float((x_adv[:, 0].square()).median()) > 0.85


def test_works_on_an_estimator_and_some_of_its_observations():
    estimator, x = make_estimator(MAF, gain=1.5), observations(6)
    for attack in (RandomSearch(KLForward(), queries=2), NES(KLForward(), queries=17)):
        part = attack(estimator, x[[1, 4]], ball=make_ball("l2", 1.0), generator=stream(0))
        assert part.shape == (2, 3)


@pytest.mark.parametrize(
    ("attack", "argument", "message"),
    [
        (RandomSearch, {"queries": 1}, "queries=1 .*at least 2"),
        (RandomSearch, {"num_samples": 0}, "num_samples=0"),
        (NES, {"radius": 0}, "radius=0"),
        (NES, {"queries": 16}, "queries=16 .*at least 2 . pairs . 1, 17"),
        (NES, {"pairs": 0}, "pairs=0"),
        (NES, {"step_size": -1}, "step_size=-1"),
        (NES, {"num_samples": 0}, "num_samples=0"),
    ],
)
def test_wrong_arguments_are_named(attack, argument, message):
    with pytest.raises(ValueError, match=message):
        attack(KLForward(), **argument)
