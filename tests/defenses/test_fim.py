import copy

import pytest
import torch
from torch.distributions.constraints import real_vector

from robust_npe.checks import ConfigError
from robust_npe.defenses import FIM, FIMEigenvalue
from robust_npe.defenses.base import negative_log_likelihood
from robust_npe.defenses.penalty import GradientAverage, PenaltyGradient, with_gradient
from robust_npe.estimators import MAF, MLP, NSF, Estimator, Identity
from robust_npe.fisher import fisher_eigenvalue, fisher_trace
from robust_npe.random import draws_from, stream

WHOLE = {"num_samples": 2, "rows": 1000, "every": 1, "weight": 1.0}


@pytest.fixture
def problem():
    with draws_from(stream(0, "weights")):
        estimator = Estimator(MAF, Identity, 2, 3, real_vector)
    theta = torch.randn(40, 2, generator=stream(0, "theta"))
    x = torch.randn(40, 3, generator=stream(0, "x"))
    return estimator, theta, x


def gradient(loss, estimator):
    estimator.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in estimator.parameters()])


@pytest.mark.parametrize(
    ("defense", "penalty"), [(FIM, fisher_trace), (FIMEigenvalue, fisher_eigenvalue)]
)
def test_loss_and_gradient_are_those_of_the_objective(problem, defense, penalty):
    estimator, theta, x = problem
    loss = defense(0.3, **WHOLE).loss(estimator, theta, x, stream(0))
    direct = negative_log_likelihood(estimator, theta, x)
    direct = direct + 0.3 * penalty(estimator, x, 2, stream(0)).mean()
    torch.testing.assert_close(loss, direct)
    torch.testing.assert_close(gradient(loss, estimator), gradient(direct, estimator))


@pytest.mark.parametrize("defense", [FIM, FIMEigenvalue])
def test_without_beta_it_is_no_defense(problem, defense):
    estimator, theta, x = problem
    expected = negative_log_likelihood(estimator, theta, x)
    assert defense(0.0).loss(estimator, theta, x, stream(0)) == expected
    assert defense(0.0).validation_loss(estimator, theta, x, stream(0)) == expected


def test_gradient_is_held_between_renewals(problem):
    estimator, theta, x = problem
    defense = FIM(1.0, num_samples=1, rows=10, every=3, weight=1.0)
    plain = gradient(negative_log_likelihood(estimator, theta, x), estimator)
    generator = stream(0)
    penalties = [
        gradient(defense.loss(estimator, theta, x, generator), estimator) - plain for _ in range(6)
    ]
    torch.testing.assert_close(penalties[0], penalties[2])
    torch.testing.assert_close(penalties[3], penalties[5])
    assert (penalties[0] - penalties[3]).norm() > 0.01 * penalties[0].norm()


def test_setup_forgets_an_earlier_training(problem):
    estimator, theta, x = problem
    for defense in (FIM(1.0, every=5), FIMEigenvalue(1.0, method="power", every=5, weight=0.3)):
        defense.setup(theta, x)
        values = []
        for _ in range(2):
            values.append(gradient(defense.loss(estimator, theta, x, stream(0)), estimator))
            defense.setup(theta, x)
        assert torch.equal(*values)


def test_validation_changes_nothing(problem):
    estimator, theta, x = problem
    defense = FIMEigenvalue(1.0, method="power", every=5)
    defense.loss(estimator, theta, x, stream(0))
    before = copy.deepcopy(vars(defense))
    with torch.no_grad():
        value = defense.validation_loss(estimator, theta, x, stream(1))
    assert value.isfinite()
    assert str(vars(defense) | {"average": 0}) == str(before | {"average": 0})
    averages = zip(defense.average.value, before["average"].value, strict=True)
    assert all(torch.equal(*pair) for pair in averages)


def test_power_method_approaches_the_exact_one(problem):
    estimator, _, x = problem
    arguments = (estimator, x, stream(0))
    exact = FIMEigenvalue(method="exact", num_samples=4).penalty(*arguments, attached=True)
    power = FIMEigenvalue(method="power", iterations=200, num_samples=4)
    close = power.penalty(estimator, x, stream(0), attached=True)
    torch.testing.assert_close(close, exact, rtol=1e-3, atol=0)
    few = FIMEigenvalue(method="power", iterations=1, num_samples=4)
    first = few.penalty(estimator, x, stream(0), attached=True)
    warm = few.penalty(estimator, x, stream(0), attached=True)
    assert ((first <= exact * 1.001) & (warm <= exact * 1.001)).all()


def test_clipping(problem):
    estimator, theta, x = problem
    plain = gradient(negative_log_likelihood(estimator, theta, x), estimator)
    clipped = FIM(1.0, max_norm=1e-3).loss(estimator, theta, x, stream(0))
    penalty = gradient(clipped, estimator) - plain
    torch.testing.assert_close(penalty.norm(), torch.tensor(1e-3), rtol=1e-2, atol=0)


def test_average_is_bias_corrected():
    average = GradientAverage(0.25)
    for value in (1.0, 3.0):
        average.update([torch.tensor(value)])
    # weights 0.25 * 0.75 and 0.25, normalised
    torch.testing.assert_close(average.value[0], torch.tensor((0.75 * 1 + 3) / 1.75))
    average.reset()
    average.update([torch.tensor(5.0)])
    torch.testing.assert_close(average.value[0], torch.tensor(5.0))


def test_with_gradient():
    parameter = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = 2 * with_gradient(torch.tensor(7.0), [parameter], [torch.tensor([3.0, 4.0])])
    loss.backward()
    assert loss == 14
    assert parameter.grad.tolist() == [6.0, 8.0]


def test_published_settings():
    assert FIM(estimator="exact").settings == PenaltyGradient(5, None, 1, 0.85)
    assert FIM(estimator="exact", num_samples=1).settings == PenaltyGradient(1, None, 1, 0.85)


@pytest.mark.parametrize(
    ("head", "embedding", "rows", "every"),
    [(MAF, Identity, 320, 2), (MAF, MLP, 96, 1), (NSF, Identity, 256, 8), (NSF, MLP, 256, 8)],
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
        for _ in range(steps):
            defense.loss(estimator, theta, x, generator)
        return used

    assert train(9) == [rows] * -(-9 // every)
    assert train(4, rows=7, every=2) == [7, 7]
    assert train(2, estimator="exact") == [400, 400]


@pytest.mark.parametrize("defense", [FIM, FIMEigenvalue])
@pytest.mark.parametrize(
    "setting",
    [
        {"beta": -1.0},
        {"estimator": "slow"},
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
