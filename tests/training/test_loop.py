from __future__ import annotations

import contextlib
import copy
import logging
import math

import pytest
import torch

from robust_npe import states
from robust_npe.checks import ConfigError
from robust_npe.defenses import Defense, NoDefense
from robust_npe.estimators import DiagonalGaussian, Estimator, Identity
from robust_npe.random import draws_from, stream
from robust_npe.training import TrainingSettings, train
from tests.helpers import conf_names, from_conf, linear_task, pairs

TASK = linear_task()
DATA, VALIDATION = pairs(TASK, 256), pairs(TASK, 64, seed=1)


def fresh(head=None, seed=0):
    head = head or (lambda d, c: DiagonalGaussian(d, c, hidden=[8]))
    with draws_from(stream(seed, "weights")):
        return Estimator(head, Identity, 2, 2, TASK.support)


def settings(**changes):
    defaults = {"batch_size": 64, "max_epochs": 4, "min_epochs": 1, "learning_rate": 1e-2}
    return TrainingSettings(**{**defaults, **changes})


def run(defense=None, estimator=None, seed=0, **changes):
    estimator = estimator or fresh()
    defense = defense or NoDefense()
    return train(estimator, defense, DATA, VALIDATION, settings(**changes), stream(seed)), estimator


class Scripted(NoDefense):
    """Plain training whose validation losses are given; remembers the weights it saw."""

    def __init__(self, script, bad_step=None):
        self.script = script
        self.weights = []
        self.batches = []
        self.bad_step = bad_step

    def loss(self, estimator, batch, generator):
        self.batches.append(batch.x)
        value = super().loss(estimator, batch, generator)
        return value * torch.nan if len(self.batches) - 1 == self.bad_step else value

    def validation_loss(self, estimator, batch, generator):
        self.weights.append(copy.deepcopy(estimator.state_dict()))
        return torch.tensor(float(self.script[len(self.weights) - 1]))


class SpyAdam(states._Adam):
    created: list = []  # noqa: RUF012

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.rates, self.norms = [], []
        SpyAdam.created.append(self)

    def step(self, *args, **kwargs):
        grads = [p.grad.flatten() for p in self.param_groups[0]["params"]]
        self.norms.append(float(torch.cat(grads).norm()))
        self.rates.append(self.param_groups[0]["lr"])
        return super().step(*args, **kwargs)


@pytest.fixture
def adam(monkeypatch):
    SpyAdam.created = []
    monkeypatch.setattr(states, "_Adam", SpyAdam)
    return SpyAdam.created


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_training_learns_and_is_reproducible():
    (first, a), (again, b), (other, c) = run(), run(), run(seed=1)
    assert first == again
    assert same(a.state_dict(), b.state_dict())
    assert first != other
    assert not same(a.state_dict(), c.state_dict())
    assert first.validation_loss[-1] < first.validation_loss[0]
    assert len(first.train_loss) == len(first.validation_loss) == 4
    assert not first.diverged


@pytest.mark.parametrize("script", [[5, 3, 4, 6], [1, 2, 3, 4], [4, 3, 2, 1], [2, 1, 1, 3]])
def test_weights_of_the_best_epoch_are_restored(script):
    defense = Scripted(script)
    history, estimator = run(defense)
    best = script.index(min(script))
    assert history.best_epoch == best
    assert history.validation_loss == script
    assert same(estimator.state_dict(), defense.weights[best])
    assert not same(defense.weights[0], defense.weights[1])


@pytest.mark.parametrize(
    ("patience", "min_epochs", "epochs"), [(3, 1, 5), (3, 8, 8), (1, 1, 3), (100, 1, 20)]
)
def test_early_stopping(patience, min_epochs, epochs, caplog):
    caplog.set_level("INFO")
    defense = Scripted([3, 2, *range(4, 30)])  # best is epoch 1
    history, _ = run(defense, patience=patience, min_epochs=min_epochs, max_epochs=20)
    assert len(history.validation_loss) == epochs
    assert history.best_epoch == 1
    told = "training ended at training.max_epochs=20, epochs since the best: 18"
    assert (told in caplog.text) == (epochs == 20)


def test_every_epoch_is_a_new_order_of_all_pairs():
    defense = Scripted([4, 3, 2])
    run(defense, max_epochs=3, batch_size=100)
    assert [len(b) for b in defense.batches] == [100, 100, 56] * 3
    orders = [torch.cat(defense.batches[i : i + 3]) for i in (0, 3, 6)]
    for order in orders:
        torch.testing.assert_close(order.sort(0).values, DATA[1].sort(0).values)
    assert not torch.equal(orders[0], orders[1])


def test_learning_rate_falls_after_idle_epochs(adam):
    script, settings = [5, 4, 6, 7, 8, 9, 3, 4, 5], {"decay_patience": 2, "decay_factor": 0.4}
    run(Scripted(script), max_epochs=9, batch_size=256, **settings)
    # idle for two epochs after epochs 3 and 5, then after epoch 8
    assert adam[0].rates == pytest.approx([1e-2] * 4 + [4e-3] * 2 + [1.6e-3] * 3)


@pytest.mark.parametrize("weight_average", [None, 0.9])
def test_training_goes_back_to_the_best_weights_where_the_learning_rate_falls(weight_average):
    """With tiny rates afterwards, it stays where it went."""
    settings = {"decay_patience": 2, "decay_factor": 1e-9, "weight_average": weight_average}
    defense = Scripted([5, 4, 6, 7, 8, 9])
    run(defense, max_epochs=6, **settings)
    before, best, idle, *after = (
        torch.cat([v.flatten() for v in w.values()]) for w in defense.weights
    )
    assert min((before - best).norm(), (idle - best).norm()) > 0.01
    for weights in after[1:]:
        torch.testing.assert_close(weights, best, rtol=0, atol=1e-6)


def test_learning_rate_stays_without_decay(adam):
    run(Scripted([1, 2, 3, 4]), decay_patience=None)
    assert set(adam[0].rates) == {1e-2}


def test_gradient_is_clipped(adam):
    run(clip_norm=0.05)
    run(clip_norm=1e6)
    clipped, free = (spy.norms for spy in adam)
    assert max(clipped) <= 0.05 * (1 + 1e-5)
    assert max(free) > 0.1


def test_standardisation_comes_from_the_training_pairs():
    _, estimator = run(max_epochs=1)
    torch.testing.assert_close(estimator.standardize.mean, DATA[1].mean(0))
    torch.testing.assert_close(estimator.standardize.std, DATA[1].std(0, correction=0))
    torch.testing.assert_close(estimator.bijection.standardize.mean, DATA[0].mean(0))


def test_validation_uses_the_same_numbers_every_time_and_no_graph():
    class Noisy(NoDefense):
        seen: list = []  # noqa: RUF012

        def validation_loss(self, estimator, batch, generator):
            assert not torch.is_grad_enabled()
            self.seen.append(float(torch.rand((), generator=generator)))
            return super().validation_loss(estimator, batch, generator)

    run(Noisy())
    assert len(Noisy.seen) == 4
    assert len(set(Noisy.seen)) == 1


@pytest.mark.parametrize("bad_step", [8, 9, 11])  # four steps per epoch
def test_divergence_restores_earlier_weights_and_is_reported(bad_step, caplog):
    defense = Scripted([5, 4, 3, 2], bad_step)
    with caplog.at_level(logging.ERROR):
        history, estimator = run(defense, decay_patience=None)
    assert history.diverged
    assert history.best_epoch == 1
    assert same(estimator.state_dict(), defense.weights[1])
    assert "epoch 2" in caplog.text
    assert "weights of epoch 1" in caplog.text
    assert len(defense.batches) == bad_step + 1  # nothing is computed with useless weights


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_validation_loss_that_is_not_finite_is_a_divergence(value):
    defense = Scripted([5, 4, value, 1])
    history, estimator = run(defense, decay_patience=None)
    assert history.diverged
    assert history.best_epoch == 1
    assert same(estimator.state_dict(), defense.weights[1])


@pytest.mark.parametrize("bad_step", [8, 11, None])  # in a step of epoch 2, or its validation
def test_training_goes_on_from_the_best_weights_after_a_divergence(bad_step, caplog, adam):
    script = [5, 4, 2, 1] if bad_step else [5, 4, math.nan, 2, 1]
    defense = Scripted(script, bad_step)
    defense.seen = []
    defense.setup = lambda estimator, theta, x: defense.seen.append(
        (copy.deepcopy(estimator.state_dict()), len(theta))
    )
    history, estimator = run(defense, max_epochs=5)
    assert not history.diverged
    assert history.restarts == 1
    assert history.validation_loss == [5, 4, math.inf, 2, 1]
    assert history.learning_rate == pytest.approx([1e-2, 1e-2, 1e-2, 3e-3, 3e-3])
    assert adam[0].rates[-8:] == [pytest.approx(3e-3)] * 8
    _, again = defense.seen
    assert same(again[0], defense.weights[1])  # the best ones
    assert again[1] == len(DATA[0])
    assert len(history.train_loss) == 5
    assert same(estimator.state_dict(), defense.weights[-1])
    assert "goes on from the weights of epoch 1 with a learning rate of 0.003" in caplog.text


def test_moments_are_forgotten_after_a_divergence():
    class Huge(NoDefense):
        count = 0

        def loss(self, estimator, batch, generator):
            self.count += 1  # four steps per epoch: the last one of the second, first of the third
            factor = {8: 1e12, 9: math.nan}.get(self.count, 1.0)
            return super().loss(estimator, batch, generator) * factor

    (calm, _), (history, _) = run(max_epochs=8), run(Huge(), max_epochs=8)
    assert history.restarts == 1
    # with moments of 1e12 nothing would be learned any more
    assert history.validation_loss[-1] < calm.validation_loss[1]


def test_a_training_that_diverges_again_and_again_is_given_up():
    defense = Scripted([5, math.nan, 4, *[math.nan] * 9])
    history, estimator = run(defense, max_epochs=20)
    assert history.diverged
    assert history.restarts == 3
    assert history.best_epoch == 2
    assert len(history.train_loss) == 6
    assert same(estimator.state_dict(), defense.weights[2])


@pytest.mark.parametrize("defense", [Scripted([5], bad_step=0), Scripted([math.nan])])
def test_divergence_in_the_first_epoch_raises(defense):
    with pytest.raises(FloatingPointError, match=r"epoch 0.*learning_rate"):
        run(defense)


@pytest.mark.parametrize("beta", [None, 0.0, 0.5])
def test_advice_upon_divergence_is_about_what_there_is(beta):
    defense = Scripted([math.nan])
    defense.beta = beta
    with pytest.raises(FloatingPointError) as error:
        run(defense)
    assert ("beta" in str(error.value)) == bool(beta)


def test_a_gradient_that_is_not_finite_is_a_divergence():
    class Cliff(Defense):  # finite value, infinite slope
        name = "cliff"

        def loss(self, estimator, batch, generator):
            weight = estimator.head.net[0].weight
            return (weight - weight.detach()).abs().sum().sqrt()

    estimator = fresh()
    with pytest.raises(FloatingPointError):
        run(Cliff(), estimator)
    assert all(p.isfinite().all() for p in estimator.parameters())


@pytest.mark.parametrize("name", conf_names("estimator"))
def test_absurd_learning_rates_end_in_a_clear_error_or_usable_weights(name):
    estimator = fresh(from_conf("estimator", name))
    with contextlib.suppress(FloatingPointError):
        run(estimator=estimator, learning_rate=1e4, max_epochs=2)
    assert all(p.isfinite().all() for p in estimator.parameters())


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"max_epochs": 0},
        {"patience": 0},
        {"clip_norm": -1.0},
        {"decay_patience": 0},
        {"decay_factor": 1.0},
        {"min_epochs": -1},
        {"max_epochs": 2.5},
        {"decay_patience": 1.5},
    ],
)
def test_settings_are_checked(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainingSettings(**wrong)


class Clipped(NoDefense):
    """Keeps every weight within 0.05."""

    def constrain(self, estimator):
        for p in estimator.parameters():
            p.clamp_(-0.05, 0.05)


def test_constraints_hold_after_every_step_and_for_the_average():
    _, estimator = run(Clipped(), weight_average=0.9, max_epochs=40)
    largest = max(float(p.detach().abs().max()) for p in estimator.parameters())
    free = max(float(p.detach().abs().max()) for p in run(max_epochs=40)[1].parameters())
    assert largest <= 0.0501 < 0.1 < free
