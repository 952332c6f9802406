"""What follows from the shape of x: embedding, names, noise, pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import robust_npe as rn
from robust_npe.checks import ConfigError
from robust_npe.components import bind
from robust_npe.config import choice
from robust_npe.estimators import Embedding
from robust_npe.random import draws_from, stream
from robust_npe.tasks import DataTask
from robust_npe.tasks.shaped import expected_norm, fitting_embedding


@pytest.mark.parametrize(
    ("shape", "iid", "name", "given"),
    [
        ((3,), False, "identity", None),
        ((400,), False, "mlp", None),
        ((100, 3), False, "series_cnn", [100, 3]),
        ((3, 100), False, "cnn1d", [3, 100]),
        ((200, 20), False, "series_cnn", [200, 20]),
        ((28, 20), False, "cnn2d", [28, 20]),
        ((3, 16, 12), False, "cnn2d", [3, 16, 12]),
        ((16, 12, 3), False, "mlp", None),
        ((50, 2), True, "deep_set", [50, 2]),
        ((50,), True, "deep_set", [50, 1]),
        ((5, 4, 2), True, "deep_set", [5, 8]),
    ],
)
def test_embeddings_suit_the_shape(shape, iid, name, given):
    found, settings = fitting_embedding(shape, iid)
    assert (found, settings.get("shape")) == (name, given)
    node = {**choice("embedding", found), **settings}
    dim_x = int(np.prod(shape))
    with draws_from(stream(0)):
        net = bind(node, "embedding", Embedding, ["dim_x"])(dim_x)
    assert net(torch.zeros(2, dim_x)).shape == (2, net.dim_out)


def task(shape, **settings):
    generator = np.random.default_rng(0)
    return DataTask(generator.normal(size=(20, 2)), generator.normal(size=(20, *shape)), **settings)


def test_names_of_features():
    assert task((2,)).x_names == ["x_1", "x_2"]
    assert task((2, 2)).x_names == ["x_1,1", "x_1,2", "x_2,1", "x_2,2"]
    assert task((2, 2), x_names=["u", "v"]).x_names == ["u[1]", "v[1]", "u[2]", "v[2]"]
    assert task((2, 2), x_names=list("abcd")).x_names == ["a", "b", "c", "d"]


@pytest.mark.parametrize("stds", [[0.3], [2.0, 2.0, 2.0], [1.0, 1e-3, 5.0], [1e6, 1e-9], [0, 1.0]])
def test_expected_norm_of_the_noise(stds):
    noise = np.random.default_rng(0).normal(size=(200_000, len(stds))) * stds
    expected = np.linalg.norm(noise, axis=1).mean()
    assert expected_norm(stds) == pytest.approx(expected, rel=0.01)
    assert task((len(stds),), noise_std=stds).noise_norm == expected_norm(stds)


@pytest.mark.parametrize("stds", [["a", "b"], [1.0], [-1.0, 1.0], "wide", [0.0, 0.0]])
def test_noise_that_is_none(stds):
    with pytest.raises(ConfigError, match=r"task\.noise_std=.* a positive number, or 2 of them"):
        task((2,), noise_std=stds)


def test_noise_of_any_array():
    assert task((2,), noise_std=np.array([1.0, 2.0])).noise_norm == expected_norm([1.0, 2.0])


@pytest.mark.parametrize("shape", [(4,), (30, 2), (9, 9), (3, 9, 9)])
def test_observations_and_samples_are_drawn(shape, axes):
    own = task(shape)
    x = rn.simulate(own, 5)[1]
    own.plot(axes, x[0])
    own.plot(axes, x)
    assert axes.has_data() or axes.images
    assert len(axes.images) == (2 if shape == (9, 9) else 0)
    if shape == (30, 2):
        np.testing.assert_allclose(axes.lines[1].get_ydata(), x[0].view(30, 2)[:, 1])
