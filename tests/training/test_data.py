from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from robust_npe.checks import ConfigError
from robust_npe.defenses import NoDefense
from robust_npe.estimators import DiagonalGaussian, Estimator, Identity
from robust_npe.random import draws_from, stream
from robust_npe.training.data import usable_pairs
from tests.helpers import observations, prior, prior_draws
from tests.training.test_loop import DATA, fresh, run, same, settings, train
from tests.training.test_loop import VALIDATION as HELD_OUT


def make(support="real"):
    with draws_from(stream(0)):
        return Estimator(DiagonalGaussian, Identity, 2, 3, prior(support).support)


def test_rows_that_are_not_finite_are_left_out_and_counted(caplog):
    theta, x = (part.clone() for part in DATA)
    bad = torch.cat([torch.full((3, 2), torch.nan), torch.full((1, 2), -torch.inf)])
    spoilt = torch.cat([theta[:9], bad, theta[9:]]), torch.cat([x[:9], bad, x[9:]])
    spoilt[1][9] = 1.0  # x is fine where theta is not
    estimator = fresh()
    with caplog.at_level(logging.WARNING):
        history = train(estimator, NoDefense(), spoilt, HELD_OUT, settings(), stream(0))
    assert "4 of 260 training pairs are not finite: left out" in caplog.text
    assert history.num_pairs == 256
    expected, clean = run()
    assert history == expected
    assert same(estimator.state_dict(), clean.state_dict())


@pytest.mark.parametrize("form", [torch.Tensor.double, lambda part: part.double().numpy()])
def test_other_types_train_the_same_estimator(form):
    estimator, (_, expected) = fresh(), run()
    pairs, held_out = (tuple(map(form, both)) for both in (DATA, HELD_OUT))
    train(estimator, NoDefense(), pairs, held_out, settings(), stream(0))
    assert same(estimator.state_dict(), expected.state_dict())


def test_float64_beyond_float32_is_not_finite():
    theta, x = prior_draws(5), observations(5).double()
    x[2, 1] = 1e300
    assert torch.equal(usable_pairs(make(), (theta, x), "training")[0], theta[[0, 1, 3, 4]])


def test_finite_pairs_are_not_copied_and_lose_their_graph():
    theta, x = prior_draws(5).requires_grad_(), observations(5)
    found = usable_pairs(make(), (theta, x), "training")
    assert found[1].data_ptr() == x.data_ptr()
    assert not found[0].requires_grad


def test_parameters_outside_of_the_support_are_counted_by_name():
    theta = prior_draws(20, "box")
    theta[3, 0], theta[4, 0], theta[4, 1] = 3.5, -2.5, torch.inf
    theta[5, 0], theta[6] = 9.0, torch.tensor([-9.0, 9.0])
    estimator = make("box")
    estimator.theta_names = ["rate", "delay"]
    message = r"3 of 19 validation pairs .* support \(rate in 3, delay in 1\)"
    with pytest.raises(ConfigError, match=message):
        usable_pairs(estimator, (theta, observations(20)), "validation")


WRONG = {
    "theta is one vector": (prior_draws(5)[:, 0], observations(5), "training theta"),
    "theta is too wide": (prior_draws(5, dim_theta=3), observations(5), "training theta"),
    "x is too narrow": (prior_draws(5), observations(5, 2), "training x"),
    "x has other rows": (prior_draws(5), observations(4), "training x"),
    "nothing": (prior_draws(5)[:0], observations(5)[:0], "number of finite training pairs=0"),
    "all NaN": (prior_draws(5), observations(5) * np.nan, "number of finite training pairs=0"),
}


@pytest.mark.parametrize(("theta", "x", "message"), WRONG.values(), ids=WRONG)
def test_other_shapes_are_named(theta, x, message):
    with pytest.raises(ConfigError, match=message):
        usable_pairs(make(), (theta, x), "training")
