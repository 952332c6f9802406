"""One contract for every estimator: files, units, training, errors."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from robust_npe.checks import ConfigError
from robust_npe.defenses import NoDefense
from robust_npe.estimators import Estimator, Identity, MixtureDensityNetwork, NflowsMAF, NflowsNSF
from robust_npe.estimators.standardize import standardization
from robust_npe.random import draws_from, stream
from robust_npe.store.weights import load_weights, save_weights
from robust_npe.training import TrainingSettings, train
from tests.estimators.common import (
    EMBEDDINGS,
    each_estimator,
    each_of_theta,
    make,
    make_fresh,
)
from tests.helpers import (
    from_conf,
    linear_task,
    observations,
    pairs,
    prior_draws,
)


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@each_estimator
def test_save_and_load(name, embedding, tmp_path):
    estimator, theta = make(name, "box", embedding), prior_draws(10, "box")
    x = observations(10, estimator.dim_x)
    save_weights(estimator, tmp_path / "w.safetensors")
    with draws_from(stream(77)):
        other = make_fresh(name, embedding)
    assert not torch.equal(other(x).log_prob(theta), estimator(x).log_prob(theta))
    load_weights(other, tmp_path / "w.safetensors")
    assert torch.equal(other(x).log_prob(theta), estimator(x).log_prob(theta))
    with draws_from(stream(0)):
        expected = estimator(x).sample((3,))
    with draws_from(stream(0)):
        assert torch.equal(other(x).sample((3,)), expected)


@each_of_theta
def test_units_of_the_data_do_not_matter(name):
    estimator, other = make(name), make(name)
    for each in (estimator, other):  # by default, an offset that changes signs makes a difference
        each.standardize = standardization("zscore", 3)
    scale, offset = torch.tensor([1e3, 0.1, 20.0]), torch.tensor([-50.0, 3.0, 0.0])
    unit, zero = torch.tensor([100.0, 0.01]), torch.tensor([5.0, -1.0])
    x_train, theta_train = observations(300), prior_draws(300)
    estimator.fit_standardization(theta_train, x_train)
    other.fit_standardization(theta_train * unit + zero, x_train * scale + offset)
    x, theta = observations(20, seed=1), prior_draws(20, seed=1)
    moved = other(x * scale + offset).log_prob(theta * unit + zero)
    jacobian = float(unit.log().sum())
    torch.testing.assert_close(moved + jacobian, estimator(x).log_prob(theta), rtol=1e-3, atol=2e-3)
    assert estimator.standardize(x_train).std(0, correction=0) == pytest.approx(1, abs=1e-4)


def test_features_that_hardly_vary_are_not_blown_up():
    estimator = make("gaussian")
    x = observations(100)
    x[:, 1] = 7.0
    estimator.fit_standardization(prior_draws(100), x)
    assert estimator.standardize.std[1] == estimator.standardize.std[[0, 2]].min()
    assert estimator(x).log_prob(prior_draws(100)).isfinite().all()


@each_estimator
def test_observations_of_the_wrong_size_are_named(name):
    with pytest.raises(ConfigError, match=r"x\.shape"):
        make(name)(observations(2, dim_x=4))


@each_of_theta
def test_short_training_finds_a_known_posterior(name):
    task = linear_task()
    data, test = pairs(task, 2000), pairs(task, 500, seed=1)
    with draws_from(stream(0)):
        estimator = Estimator(from_conf("estimator", name), Identity, 2, 2, task.support)
    # splines without affine functions fit a narrow Gaussian less well
    most, widening = (0.2, 0.4) if name == "sbi_nsf" else (0.1, 0.12)
    settings = TrainingSettings(batch_size=128, max_epochs=14, learning_rate=3e-3, decay_patience=2)
    train(estimator, NoDefense(), data, pairs(task, 500, seed=2), settings, stream(0))
    theta, x = test
    exact = task.true_posterior(x)
    with torch.no_grad(), draws_from(stream(0)):
        q = estimator(x)
        excess = float((exact.log_prob(theta) - q.log_prob(theta)).mean())
        samples = q.sample((100,))
        rank = (q.log_prob(samples) > q.log_prob(theta)).double().mean(0)
    assert -0.02 < excess < most
    standardised = (samples - exact.mean) / exact.stddev
    assert standardised.mean((0, 1)) == pytest.approx(torch.zeros(2), abs=0.12)
    assert standardised.std((0, 1)) == pytest.approx(torch.ones(2), abs=widening)
    # ranks of the truth are uniform for a calibrated posterior
    assert stats.kstest(rank.numpy(), "uniform").statistic < 0.1


def test_wrong_settings_are_named():
    with pytest.raises(ConfigError, match="equal width"):
        NflowsMAF(2, 3, hidden=(50, 100))
    with pytest.raises(ConfigError, match="transforms"):
        NflowsNSF(2, 3, transforms=1)
    with pytest.raises(ConfigError, match="bins"):
        NflowsNSF(2, 3, bins=1)
    with pytest.raises(ConfigError, match="bound"):
        NflowsNSF(2, 3, bound=-1.0)
    with pytest.raises(ConfigError, match="components"):
        MixtureDensityNetwork(2, 3, components=0)
    with pytest.raises(ConfigError, match="dim_out"):
        from_conf("embedding", "mlp", skip=["dim_out"], dim_out=0)(3)
    with pytest.raises(ConfigError, match="hidden"):
        from_conf("embedding", "mlp", skip=["hidden"], hidden=[0])(3)


@each_estimator
def test_names_are_those_of_the_configuration(name):
    assert make(name).name == name
    assert math.isfinite(sum(float(p.detach().sum()) for p in make(name).parameters()))
