import copy
from functools import partial
from typing import ClassVar
from unittest import mock

import pytest
import torch
from torch.distributions.constraints import real_vector

from robust_npe.checks import ConfigError
from robust_npe.defenses import FIM, Batch, FIMEigenvalue, Jacobian
from robust_npe.defenses.penalty import GradientAverage, PenaltyGradient, with_gradient
from robust_npe.estimators import (
    FMPE,
    MAF,
    MLP,
    NSF,
    Estimator,
    Identity,
    MixtureDensityNetwork,
    NflowsMAF,
)
from robust_npe.estimators.autoregressive import AutoregressiveFlow
from robust_npe.fisher import fisher_eigenvalue, fisher_trace
from robust_npe.random import draws_from, stream

WHOLE = {"num_samples": 2, "rows": 1000, "every": 1, "weight": 1.0}


@pytest.fixture
def problem():
    with draws_from(stream(0, "weights")):
        estimator = Estimator(MAF, Identity, 2, 3, real_vector)
    theta = torch.randn(40, 2, generator=stream(0, "theta"))
    x = torch.randn(40, 3, generator=stream(0, "x"))
    return estimator, Batch(theta, x)


def set_up(defense, problem):
    estimator, batch = problem
    defense.setup(estimator, batch.theta, batch.x)
    return defense


def likelihood(estimator, batch):
    return -estimator(batch.x).log_prob(batch.theta).mean()


def gradient(loss, estimator):
    estimator.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in estimator.parameters()])


@pytest.mark.parametrize(
    ("defense", "penalty"), [(FIM, fisher_trace), (FIMEigenvalue, fisher_eigenvalue)]
)
def test_loss_and_gradient_are_those_of_the_objective(problem, defense, penalty):
    estimator, batch = problem
    loss = set_up(defense(0.3, **WHOLE), problem).loss(estimator, batch, stream(0))
    direct = likelihood(estimator, batch)
    direct = direct + 0.3 * penalty(estimator, batch.x, 2, stream(0)).mean()
    torch.testing.assert_close(loss, direct)
    torch.testing.assert_close(gradient(loss, estimator), gradient(direct, estimator))


@pytest.mark.parametrize("defense", [FIM, FIMEigenvalue])
def test_without_beta_it_is_no_defense(problem, defense):
    expected = likelihood(*problem)
    defense = set_up(defense(0.0), problem)
    assert defense.loss(*problem, stream(0)) == expected
    assert defense.validation_loss(*problem, stream(0)) == expected


def penalty_gradients(defense, problem, steps):
    """Gradients of the penalty in successive steps."""
    plain, generator = gradient(likelihood(*problem), problem[0]), stream(0)
    losses = (defense.loss(*problem, generator) for _ in range(steps))
    return [gradient(loss, problem[0]) - plain for loss in losses]


def test_gradient_is_held_between_renewals(problem):
    defense = set_up(FIM(1.0, num_samples=1, rows=10, every=3, weight=1.0), problem)
    penalties = penalty_gradients(defense, problem, 6)
    torch.testing.assert_close(penalties[0], penalties[2])
    torch.testing.assert_close(penalties[3], penalties[5])
    assert (penalties[0] - penalties[3]).norm() > 0.01 * penalties[0].norm()


def test_setup_forgets_an_earlier_training(problem):
    estimator, batch = problem
    for defense in (FIM(1.0, every=5), FIMEigenvalue(1.0, method="power", every=5, weight=0.3)):
        values = []
        for _ in range(2):
            loss = set_up(defense, problem).loss(estimator, batch, stream(0))
            values.append(gradient(loss, estimator))
        assert torch.equal(*values)


def test_validation_changes_nothing(problem):
    estimator, batch = problem
    defense = set_up(FIMEigenvalue(1.0, method="power", every=5), problem)
    defense.loss(estimator, batch, stream(0))
    before = copy.deepcopy(defense.state_dict())
    with torch.no_grad():
        value = defense.validation_loss(estimator, batch, stream(1))
    assert value.isfinite()
    torch.testing.assert_close(defense.state_dict(), before, rtol=0, atol=0)


def test_power_method_approaches_the_exact_one(problem):
    estimator, x = problem[0], problem[1].x

    def penalty(defense):
        return defense.penalty(estimator, x, stream(0), attached=True)

    exact = penalty(set_up(FIMEigenvalue(method="exact", num_samples=4), problem))
    power = FIMEigenvalue(method="power", iterations=200, num_samples=4)
    torch.testing.assert_close(penalty(set_up(power, problem)), exact, rtol=1e-3, atol=0)
    few = set_up(FIMEigenvalue(method="power", iterations=1, num_samples=4), problem)
    first, warm = penalty(few), penalty(few)
    assert ((first <= exact * 1.001) & (warm <= exact * 1.001)).all()


def test_clipping(problem):
    defense = set_up(FIM(1.0, max_norm=1e-3), problem)
    (penalty,) = penalty_gradients(defense, problem, 1)
    torch.testing.assert_close(penalty.norm(), torch.tensor(1e-3), rtol=1e-2, atol=0)


def test_one_gradient_that_is_far_too_long_is_clipped_where_gradients_are_held(problem):
    """20 gradients as usual, and one of a penalty that is 100 times as large."""
    scale = 1.0

    class Scaled(FIM):
        def penalty(self, estimator, x, generator, attached):
            return scale * super().penalty(estimator, x, generator, attached)

    norms = {}
    for limit in (None, 2.0):
        settings = PenaltyGradient(num_samples=1, rows=15, every=1, weight=1.0, limit=limit)
        with mock.patch.object(FIM, "gradients", {"fast": settings}):
            defense = set_up(Scaled(1.0, max_norm=1e6), problem)
            usual = [v.norm() for v in penalty_gradients(defense, problem, 20)]
            scale = 100.0
            (last,) = penalty_gradients(defense, problem, 1)
            scale = 1.0
            norms[limit] = torch.stack([*usual, last.norm()])
    torch.testing.assert_close(norms[2.0][:20], norms[None][:20])  # what is as usual stays as it is
    assert norms[None][20] > 30 * norms[None][:20].mean()
    assert 1.5 < norms[2.0][20] / norms[2.0][:20].mean() < 2.5


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_is_left_out(problem, bad):
    scale = 1.0

    class Scaled(FIM):
        def penalty(self, estimator, x, generator, attached):
            return scale * super().penalty(estimator, x, generator, attached)

    defense = set_up(Scaled(1.0, rows=15, every=1), problem)
    (usual,) = penalty_gradients(defense, problem, 1)
    scale = bad
    (held,) = penalty_gradients(defense, problem, 1)
    torch.testing.assert_close(held, usual, rtol=1e-4, atol=1e-5)  # the last one stays
    scale = 1.0
    after = penalty_gradients(defense, problem, 2)[1]
    assert after.isfinite().all()
    assert not torch.allclose(after, usual)


def test_fast_gradients_have_a_limit_and_published_ones_have_none():
    every = [*FIM.variants.values(), *(d.gradients["fast"] for d in (FIM, FIMEigenvalue, Jacobian))]
    # with 2 the objectives of the eigenvalue, and of `mdn`, rise while they are trained
    assert {s.limit for s in every} == {10.0}
    assert {d.gradients["exact"].limit for d in (FIM, FIMEigenvalue, Jacobian)} == {None}


def test_average_is_bias_corrected():
    average = GradientAverage(0.25, [torch.zeros(())])
    for value in (1.0, 3.0):
        average.update([torch.tensor(value)])
    # weights 0.25 * 0.75 and 0.25, normalised
    torch.testing.assert_close(average.value[0], torch.tensor((0.75 * 1 + 3) / 1.75))


def test_the_average_has_the_weight_of_the_settings_in_use(problem):
    """Where another variant is used, its weight is."""

    class Other(FIM):
        variants: ClassVar = {("fast", "inverted"): PenaltyGradient(1, 10, 1, 0.25)}

    with mock.patch.object(AutoregressiveFlow, "score_method", "inverted"):
        new = penalty_gradients(set_up(FIM(1.0, rows=10, every=1, weight=1.0), problem), problem, 2)
        got = penalty_gradients(set_up(Other(1.0), problem), problem, 2)
    torch.testing.assert_close(got[0], new[0])
    torch.testing.assert_close(got[1], (0.75 * new[0] + new[1]) / 1.75, rtol=1e-3, atol=1e-5)


def test_with_gradient():
    parameter = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = 2 * with_gradient(torch.tensor(7.0), [parameter], [torch.tensor([3.0, 4.0])])
    loss.backward()
    assert loss == 14
    assert parameter.grad.tolist() == [6.0, 8.0]


def test_published_settings(problem):
    published = {"num_samples": 5, "rows": None, "every": 1, "weight": 0.85, "limit": None}
    assert set_up(FIM(gradient="exact"), problem).facts() == published
    one = set_up(FIM(gradient="exact", num_samples=1), problem)
    assert one.facts() == {**published, "num_samples": 1}


@pytest.mark.parametrize(
    ("head", "embedding", "rows", "every"),
    [
        (MAF, Identity, 320, 2),
        (NSF, Identity, 320, 2),
        (MAF, MLP, 80, 1),
        (NSF, MLP, 80, 1),
        (MixtureDensityNetwork, Identity, 256, 1),
        (NflowsMAF, Identity, 128, 2),
        (partial(FMPE, hidden=8, steps=2), Identity, 64, 8),
    ],
)
def test_fast_depends_on_how_scores_are_made(head, embedding, rows, every):
    with draws_from(stream(0, "weights")):
        estimator = Estimator(head, embedding, 2, 3, real_vector)
    theta, x = torch.zeros(400, 2), torch.randn(400, 3, generator=stream(0, "x"))
    used = []

    class Watched(FIM):
        def penalty(self, estimator, x, generator, attached):
            used.append(len(x))
            return super().penalty(estimator, x, generator, attached)

    def train(steps, **settings):
        used.clear()
        defense, generator = Watched(0.1, **settings), stream(0)
        defense.setup(estimator, theta, x)
        with draws_from(stream(0, "loss")):  # of FMPE
            for _ in range(steps):
                defense.loss(estimator, Batch(theta, x), generator)
        return used

    assert train(9) == [rows] * -(-9 // every)
    assert train(4, rows=7, every=2) == [7, 7]
    assert train(2, gradient="exact") == [400, 400]


@pytest.mark.parametrize("defense", [FIM, FIMEigenvalue])
def test_setup_is_needed(problem, defense):
    with pytest.raises(RuntimeError, match="setup"):
        defense().loss(*problem, stream(0))


@pytest.mark.parametrize("defense", [FIM, FIMEigenvalue])
@pytest.mark.parametrize(
    "setting",
    [
        {"beta": -1.0},
        {"gradient": "slow"},
        {"num_samples": 0},
        {"rows": 0},
        {"every": 0},
        {"weight": 0.0},
        {"weight": 1.5},
        {"max_norm": 0.0},
    ],
    ids=str,
)
def test_wrong_settings(defense, setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        defense(**setting)


@pytest.mark.parametrize("setting", [{"method": "guess"}, {"iterations": 0}], ids=str)
def test_wrong_settings_of_the_eigenvalue(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        FIMEigenvalue(**setting)
