from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal

from robust_npe.attacks import (
    APGD,
    PGD,
    KLForward,
    KLReverse,
    NegativeLogLikelihood,
    PaperPGD,
    RandomSearch,
    SpectralAttack,
    StandardEvaluation,
    make_ball,
    standard,
    std_unit,
)
from robust_npe.attacks.halving import Problem, Round, halve
from robust_npe.random import stream
from tests import posteriors
from tests.attacks.test_pgd import TASK, Value, half_square, movement_matrix
from tests.helpers import pairs

OBJECTIVES = (KLForward(), KLReverse())


@pytest.mark.parametrize("objective", OBJECTIVES, ids=["forward", "reverse"])
@pytest.mark.parametrize("attack", [PGD, PaperPGD, APGD, StandardEvaluation])
def test_every_white_box_attack_reaches_the_closed_form_in_l2(attack, objective):
    x = pairs(TASK, 24)[1].double()
    radius = 0.1 * std_unit(x)
    optimum = 0.5 * radius**2 * float(movement_matrix(TASK).max())
    ball = make_ball("l2", radius)
    x_adv = attack(objective)(TASK.true_posterior, x, ball=ball, generator=stream(0))
    reached = half_square(x_adv - x) / optimum
    assert float(reached.max()) <= 1 + 1e-9
    assert float(reached.min()) >= 0.99


@pytest.mark.parametrize("objective", OBJECTIVES, ids=["forward", "reverse"])
def test_the_spectral_attack_reaches_it_as_the_number_of_scores_grows(objective):
    x = pairs(TASK, 6)[1].double()
    m, ball = movement_matrix(TASK), make_ball("l2", 0.1)
    missing = []
    for num_scores in (256, 50_000):
        x_adv = SpectralAttack(objective, num_scores)(
            TASK.true_posterior, x, ball=ball, generator=stream(0)
        )
        missing.append(1 - half_square(x_adv - x) / (0.5 * 0.1**2 * m.max()))
    assert float(missing[1].max()) < 0.01
    assert 0.01 < float(missing[0].mean()) < 0.05


@pytest.mark.parametrize("norm", ["l1", "linf"])
def test_finds_the_best_corner_in_the_other_norms(norm):
    x = pairs(TASK, 24)[1].double()
    m = movement_matrix(TASK)
    optimum = 0.5 * 0.3**2 * float(m.max() if norm == "l1" else m.sum())
    # in L1, several corners are nearly as good, closer than the error of the scores
    for attack, floor in (
        (SpectralAttack(KLForward()), 0.85),
        (StandardEvaluation(KLForward()), 0.99),
    ):
        x_adv = attack(TASK.true_posterior, x, ball=make_ball(norm, 0.3), generator=stream(0))
        assert float((half_square(x_adv - x) / optimum).min()) >= floor


def test_the_best_of_two_hills_is_found_in_every_row():
    def hills(delta):  # one wide and low, one narrow and high, nothing to follow between them
        wide = 1 - (delta - torch.tensor([1.0, 0.0])).square().sum(-1)
        narrow = 3 - 40 * (delta - torch.tensor([0.0, 1.0])).square().sum(-1)
        return torch.maximum(wide, narrow)

    x, ball = torch.zeros(30, 2), make_ball("l2", 1.0)
    starts = [ball.surface(x, g) for g in map(stream, range(40))]
    problem = Problem(None, x, None, ball)
    rounds = (Round(6, 10, 0.1), Round(1, 20, 0.1))
    (end,), zero = halve(problem, Value(hills), starts, rounds, stream(0))
    assert float((hills(end) > 2.9).float().mean()) > 0.8
    assert (zero == 0).all()
    (alone,), _ = halve(problem, Value(hills), starts[:1], rounds, stream(0))
    assert float((hills(alone) > 2.9).float().mean()) < 0.5


def test_equal_points_are_climbed_once():
    x, ball = torch.zeros(4, 2), make_ball("l2", 1.0)
    first, second = x + torch.tensor([1.0, 0.0]), x + torch.tensor([0.0, 0.9])
    flat = Value(lambda d: d.square().sum(-1) + 0 * d[:, 0])
    ends, _ = halve(
        Problem(None, x, None, ball),
        flat,
        [first, first, second],
        (Round(2, 1, 1e-6),),
        stream(0),
    )
    torch.testing.assert_close(torch.stack(ends), torch.stack((first, second)), atol=1e-5, rtol=0)


# Every kind of posterior, and small cases.


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(standard, "ROUNDS", (Round(6, 20, 0.3, 4, 400), Round(2, 20, 0.2, 32, 400)))
    monkeypatch.setattr(standard, "gradient_free", lambda o: (RandomSearch(o, queries=20),))


@pytest.mark.parametrize("kind", [KLForward, KLReverse, NegativeLogLikelihood])
@pytest.mark.parametrize("name", posteriors.POSTERIORS)
def test_beats_random_points_on_posteriors_of_every_kind(name, kind, small):
    posterior, task = posteriors.make(name)
    theta, x = posteriors.data(task, 6)
    ball, objective = make_ball("l2", 1.0), kind()
    found = StandardEvaluation(objective).search(posterior, x, theta, ball, stream(0))
    assert (ball.norm(found.x_adv - x) <= 1 + 1e-6).all()

    def value(x_adv):
        return posteriors.exact_value(objective.name, posterior, x, x_adv, theta)

    reached = value(found.x_adv)
    drawn = torch.stack([value(x + ball.surface(x, stream(i, "random"))) for i in range(8)])
    # with so few steps, one of them may be a little higher
    assert float((reached >= 0.8 * drawn.amax(0)).double().mean()) > 0.8


def particles(x):
    """Weights of fixed particles that depend on x: no reparameterised samples."""
    places = torch.linspace(-2, 2, 9).to(x)
    logits = -(x[:, :1] - places).square()
    parts = torch.distributions.Normal(places.expand(len(x), -1), 0.05)
    return MixtureSameFamily(Categorical(logits=logits), parts)


def line(x):
    return Independent(torch.distributions.Normal(3 * x, 1.0), 1)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=["forward", "reverse"])
@pytest.mark.parametrize("posterior", [particles, line])
@pytest.mark.parametrize(("rows", "radius"), [(1, 0.5), (3, 0.0), (3, "rows")])
def test_one_observation_one_feature_and_any_radius(rows, radius, posterior, objective, small):
    x = torch.linspace(-0.3, 0.4, rows)[:, None]
    radius = torch.tensor([0.0, 0.2, 0.7]) if radius == "rows" else radius
    ball = make_ball("linf", radius, domain=(torch.tensor([-0.6]), torch.tensor([0.9])))
    found = StandardEvaluation(objective).search(posterior, x, None, ball, stream(0))
    limit = torch.minimum(torch.as_tensor(radius).expand(rows), (0.9 - x[:, 0]))
    moved = (found.x_adv - x)[:, 0]
    assert (moved.abs() <= torch.as_tensor(radius) + 1e-6).all()
    assert (moved.abs() >= limit - 1e-5).all() or posterior is particles
    assert found.zero_gradients.shape == (rows,)


def test_the_first_search_is_not_spent_on_a_likelihood():
    names = [
        [search.name for search in StandardEvaluation(o)._searches()]
        for o in (KLForward(5), KLReverse(5), NegativeLogLikelihood(), Value(lambda d: d[:, 0]))
    ]
    assert names == [
        ["kl_forward"],
        ["kl_forward", "kl_reverse"],
        ["nll"],
        ["kl_forward", "value"],
    ]


def test_another_objective_decides():
    def gaussian(x):
        return MultivariateNormal(x.double(), torch.eye(2, dtype=torch.float64))

    x = torch.zeros(5, 2).double()
    one_sided = Value(lambda d: d[:, 0])
    ball = make_ball("l2", 1.0)
    x_adv = StandardEvaluation(one_sided)(gaussian, x, ball=ball, generator=stream(0))
    torch.testing.assert_close(x_adv[:, 0], torch.ones(5).double(), atol=1e-3, rtol=0)
