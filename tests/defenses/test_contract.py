"""One contract for every defense in conf/defense."""

from __future__ import annotations

import copy

import pytest
import torch

from robust_npe.defenses import TRADES, Batch
from robust_npe.estimators import MAF
from robust_npe.random import stream
from tests.helpers import conf_names, from_conf, make_estimator, observations, prior_draws

DETERMINISTIC = ("none", "dro", "spectral", "ensemble", "smoothing", "posthoc", "swag")
each_defense = pytest.mark.parametrize("name", conf_names("defense"))


def head(dim_theta, dim_context):
    return MAF(dim_theta, dim_context, transforms=2, hidden=(16, 16))


@pytest.fixture
def estimator(name):
    return from_conf("defense", name).prepare(make_estimator(head, gain=1.5))


@pytest.fixture(scope="module")
def data():
    return prior_draws(40), observations(40)


def set_up(name, data, **overrides):
    defense = from_conf("defense", name, **overrides)
    defense.setup(defense.prepare(make_estimator(head, gain=1.5)), *data)
    return defense


def gradients(loss, estimator):
    return torch.autograd.grad(loss, [p for p in estimator.parameters() if p.requires_grad])


@each_defense
def test_loss_is_a_scalar_with_a_gradient_for_every_parameter(name, estimator, data):
    defense = set_up(name, data)
    trained = [p.requires_grad for p in estimator.parameters()]
    loss = defense.loss(estimator, Batch(*data), stream(0))
    assert loss.shape == ()
    assert all(p.grad is None for p in estimator.parameters())  # computing it leaves no traces
    for g in gradients(loss, estimator):
        assert g.isfinite().all()
        assert float(g.abs().max()) > 0
    assert [p.requires_grad for p in estimator.parameters()] == trained


@each_defense
def test_loss_is_a_function_of_the_generator(name, estimator, data):
    losses = [set_up(name, data).loss(estimator, Batch(*data), stream(s)) for s in (0, 0, 1)]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2]) == (name in DETERMINISTIC)


@each_defense
def test_validation_changes_no_state(name, estimator, data):
    plain, validated = set_up(name, data), set_up(name, data)
    weights = copy.deepcopy(estimator.state_dict())
    for step in range(3):
        with torch.no_grad():
            values = [
                validated.validation_loss(estimator, Batch(*data), stream(9)) for _ in range(2)
            ]
        assert torch.equal(*values)
        assert not values[0].requires_grad
        a, b = (d.loss(estimator, Batch(*data), stream(step)) for d in (plain, validated))
        assert torch.equal(a, b)
        for u, v in zip(gradients(a, estimator), gradients(b, estimator), strict=True):
            assert torch.equal(u, v)
    assert all(torch.equal(weights[k], v) for k, v in estimator.state_dict().items())


@each_defense
def test_setup_forgets_an_earlier_training(name, estimator, data):
    defense = set_up(name, data)
    first = defense.loss(estimator, Batch(*data), stream(0))
    defense.loss(estimator, Batch(*data), stream(1))
    defense.setup(estimator, *data)
    again = defense.loss(estimator, Batch(*data), stream(0))
    assert torch.equal(first, again)
    for u, v in zip(gradients(first, estimator), gradients(again, estimator), strict=True):
        assert torch.equal(u, v)


@each_defense
def test_stale_gradients_do_not_matter(name, estimator, data):
    expected = set_up(name, data).loss(estimator, Batch(*data), stream(0))
    for p in estimator.parameters():
        p.grad = torch.full_like(p, 3.0)
    loss = set_up(name, data).loss(estimator, Batch(*data), stream(0))
    assert torch.equal(loss, expected)
    assert all((p.grad == 3).all() for p in estimator.parameters())


def with_beta():
    names = conf_names("defense")
    noisy = ("vi",)  # without a weight its weights are still drawn
    return [n for n in names if from_conf("defense", n).beta is not None and n not in noisy]


@pytest.mark.parametrize("name", with_beta())
def test_no_weight_is_no_defense_and_negative_weights_are_refused(name, estimator, data):
    loss = set_up(name, data, beta=0.0).loss(estimator, Batch(*data), stream(0))
    plain = -estimator(data[1]).log_prob(data[0]).mean()
    torch.testing.assert_close(loss, plain)
    for u, v in zip(gradients(loss, estimator), gradients(plain, estimator), strict=True):
        torch.testing.assert_close(u, v)
    weighty = set_up(name, data, beta=10.0).loss(estimator, Batch(*data), stream(0))
    assert abs(float((weighty - plain).detach())) > 0.01
    with pytest.raises(ValueError, match="beta"):
        from_conf("defense", name, beta=-1.0)


def test_there_are_defenses_with_beta():
    assert TRADES.name in with_beta()


@each_defense
def test_names_are_those_of_the_configuration(name):
    assert from_conf("defense", name).name == name
