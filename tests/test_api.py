from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

import robust_npe as rn
from robust_npe.attacks import PGD
from robust_npe.bayesian import DeepEnsemble, WeightEnsemble
from robust_npe.checks import ConfigError
from robust_npe.defenses import FIM, SWAGWeights
from robust_npe.estimators import DiagonalGaussian, Identity
from robust_npe.random import stream
from robust_npe.store.chunks import SimulationPlan
from robust_npe.tasks import GaussianLinear, HalfMoons
from robust_npe.training import TrainingSettings
from tests.helpers import linear_task


class Changed(GaussianLinear):
    """A task whose observations went through a function."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def simulate(self, theta, generator):
        return self.change(super().simulate(theta, generator))


@pytest.fixture(scope="module")
def q():
    settings = TrainingSettings(max_epochs=2, min_epochs=1)
    return rn.train(linear_task(), DiagonalGaussian, num_simulations=500, settings=settings)


def test_failed_simulations_are_left_out_with_a_warning(caplog):
    def fail(x):
        x[3, 2] = torch.nan
        return x

    theta, x = rn.simulate(Changed(fail), 10)
    whole = rn.simulate(GaussianLinear(), 10)
    assert torch.equal(theta, whole[0][[0, 1, 2, 4, 5, 6, 7, 8, 9]])
    assert x.shape == (9, 10)
    assert "1 of 10 simulations are non-finite: left out" in caplog.text


def test_posteriors_over_weights_of_classifiers_and_of_density_estimators():
    head = partial(
        WeightEnsemble, inference=DeepEnsemble(2, epochs=40, learning_rate=0.02), hidden=(16,)
    )
    classifier = rn.train(HalfMoons(), head, num_simulations=300, standardize="none")
    theta, x = rn.simulate(HalfMoons(), 300, seed=1)
    right = classifier(x).log_probs.argmax(-1) == theta.squeeze(-1)
    assert float(right.double().mean()) > 0.8
    settings = TrainingSettings(max_epochs=2, min_epochs=1)
    given = {"num_simulations": 300, "settings": settings}
    mixture = rn.train(linear_task(), DiagonalGaussian, SWAGWeights(draws=3), **given)
    assert mixture(rn.simulate(linear_task(), 5)[1]).num_members == 3


def test_simulators_are_checked_as_in_the_store():
    with pytest.raises(ConfigError, match=r"task gaussian_linear: .* shape \(10, 10\)"):
        rn.simulate(Changed(lambda x: x[:, :1]), 10)
    theta, x = rn.simulate(Changed(lambda x: x.double().numpy()), 10)
    assert torch.equal(x, rn.simulate(GaussianLinear(), 10)[1])
    too_large = Changed(lambda x: x.double() * 1e300)
    assert len(rn.simulate(too_large, 10)[1]) == 0  # infinite as float32
    assert theta.dtype == x.dtype == torch.float32
    assert SimulationPlan(too_large, {}, "train", 10, 0).simulate(0)["num_dropped"] == 10


def test_unsuitable_priors_are_refused_before_any_work():
    def never(x):
        raise AssertionError

    task = Changed(never)
    task.prior = torch.distributions.Dirichlet(torch.ones(10))
    with pytest.raises(ConfigError, match=r"task gaussian_linear: .* Simplex"):
        rn.train(task)


@pytest.mark.parametrize("form", [torch.Tensor.double, lambda part: part.double().numpy()])
def test_other_types_give_the_same_numbers(q, form):
    theta, x = rn.simulate(linear_task(), 8, seed=1)
    assert torch.equal(q(form(x)).log_prob(form(theta)), q(x).log_prob(theta))
    expected = q.scores(x, 2, stream(0), attached=False)
    given = torch.as_tensor(form(x))
    torch.testing.assert_close(q.scores(given, 2, stream(0), False).float(), expected)
    x_adv = rn.attack(q, x, theta, epsilon=0.5)
    torch.testing.assert_close(rn.kl(q, form(x), form(x_adv)), rn.kl(q, x, x_adv))
    found = rn.attack(q, form(x), form(theta), epsilon=0.5)  # from another random start
    assert float(rn.kl(q, x, found).sum() / rn.kl(q, x, x_adv).sum()) == pytest.approx(1, abs=0.1)


def test_whole_numbers_are_observations(q):
    counts = np.array([[1, 2], [0, 3]])
    assert torch.equal(q(counts).base.mean, q(torch.tensor([[1.0, 2.0], [0.0, 3.0]])).base.mean)
    assert rn.kl(q, counts, counts + 1).shape == (2,)


def refused(match, function, *args, **kwargs):
    with pytest.raises(ConfigError, match=match) as error:
        function(*args, **kwargs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task", GaussianLinear),
        ("head", "maf"),
        ("head", DiagonalGaussian(2, 2)),
        ("embedding", Identity(2)),
        ("defense", FIM),
        ("settings", {"max_epochs": 1}),
    ],
)
def test_classes_names_and_objects_are_told_apart(name, value):
    given = {"task": linear_task(), "num_simulations": 10} | {name: value}
    refused(rf"{name}=.* must be", rn.train, **given)


def test_observations_that_are_no_rows_are_refused(q):
    x = torch.zeros(6, 2)
    for wrong in (x[0], x[None]):
        refused(r"x.shape=.* \(B, Dx\)", rn.kl, q, wrong, wrong)
        refused(r"x.shape=.* \(B, Dx\)", rn.attack, q, wrong)
    refused(r"x_adv.shape=\(1, 2\) .* \(6, 2\)", rn.kl, q, x, x[:1])
    refused("x is no array of numbers", rn.attack, q, "x")
    refused("num_samples=0", rn.kl, q, x, x, num_samples=0)
    refused(
        "radius=.* 6: one for each row", rn.attack, q, x, epsilon=[0.5], epsilon_unit="absolute"
    )
    refused("method=.*PGD", rn.attack, q, x, method=PGD)


def test_each_observation_may_have_its_radius(q):
    x = rn.simulate(linear_task(), 3)[1]
    moved = (rn.attack(q, x, epsilon=[0.0, 0.5, 1.0], epsilon_unit="absolute") - x).norm(dim=-1)
    torch.testing.assert_close(moved, torch.tensor([0.0, 0.5, 1.0]))


@pytest.mark.parametrize("unit", [1e-9, 1e6])
def test_units_of_x_do_not_hide_a_vulnerability(unit):
    def attacked(scale):
        task = linear_task((scale, -scale), 0.3 * scale)
        settings = TrainingSettings(max_epochs=4, min_epochs=1, learning_rate=1e-2)
        q = rn.train(task, DiagonalGaussian, num_simulations=1000, settings=settings)
        x = rn.simulate(task, 50, seed=1)[1]
        return float(rn.kl(q, x, rn.attack(q, x, epsilon=0.5)).median())

    assert attacked(unit) == pytest.approx(attacked(1.0), rel=0.05)
    assert attacked(1.0) > 0.5


def test_masked_gradients_are_told(caplog):
    def behind(x):
        return Independent(Normal(x[:, :2], 1.0), 1)

    x = torch.randn(20, 3, generator=stream(0))
    rn.attack(behind, x, epsilon=0.5)
    assert not caplog.records
    rn.attack(lambda x: behind(x.round()), x, epsilon=0.5)
    assert "attack saw no gradient in 100 % of its steps" in caplog.text


def test_rows_that_are_not_finite_are_named(q):
    x = torch.randn(5, q.dim_x, generator=stream(0))
    x[2, 0] = torch.nan
    with pytest.raises(ConfigError, match=r"x='NaN or inf in some rows'.*leave them out"):
        rn.attack(q, x)


class Failing(Changed):
    def __init__(self, error):
        def change(x):
            raise error

        super().__init__(change)


@pytest.mark.parametrize("error", [RuntimeError("no mesh"), ZeroDivisionError(), SystemExit(5)])
def test_what_a_simulator_raises_is_told_with_its_place(error):
    kind = type(error).__name__
    expected = rf"^task gaussian_linear: its simulator raised {kind}: .*test_api.py, line \d+\)\.$"
    with pytest.raises(ConfigError, match=expected):
        rn.simulate(Failing(error), 5)


NOT_ONE = Normal(torch.zeros(3, 2), 1.0)


@pytest.mark.parametrize("prior", [None, "normal", NOT_ONE, Independent(NOT_ONE, 1)])
def test_priors_that_are_not_one_distribution_over_vectors(prior):
    task = linear_task()
    task.prior = prior
    with pytest.raises(ConfigError, match="task gaussian_linear: its prior"):
        rn.train(task, num_simulations=10)


def test_whole_floats_are_numbers_of_simulations():
    theta, _ = rn.simulate(linear_task(), 1e2)
    assert len(theta) == 100
    with pytest.raises(ConfigError, match="num_simulations='a'"):
        rn.simulate(linear_task(), "a")
