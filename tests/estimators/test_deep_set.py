from __future__ import annotations

import pytest
import torch

from robust_npe.checks import ConfigError
from robust_npe.estimators import CNN1d, CNN2d, DeepSet, DiagonalGaussian, Estimator, SeriesCNN
from robust_npe.estimators.standardize import KINDS
from robust_npe.random import draws_from, stream
from tests.helpers import prior, prior_draws


def made(cls, *args, **kwargs):
    with draws_from(stream(0)):
        return cls(*args, **kwargs)


def normal(*shape):
    return torch.randn(shape, generator=stream(1))


@pytest.mark.parametrize("standardize", KINDS)
def test_the_posterior_does_not_depend_on_the_order_of_the_elements(standardize):
    def embedding(dim_x):
        return DeepSet(dim_x, (5, 2))

    with draws_from(stream(0)):
        support = prior("real").support
        estimator = Estimator(DiagonalGaussian, embedding, 2, 10, support, standardize)
        order = torch.randperm(5)
    x = normal(40, 5, 2) * torch.tensor([1e6, 1e-9]) + torch.tensor([3e6, 0.0])
    estimator.fit_standardization(prior_draws(40), x.flatten(1))
    q, permuted = (estimator(t.flatten(1)).base for t in (x, x[:, order]))
    torch.testing.assert_close(q.mean, permuted.mean)
    other = estimator(x.flip(2).flatten(1)).base  # features are not exchangeable
    assert not torch.allclose(q.mean, other.mean)


def test_a_set_against_the_mean_written_out():
    net = made(DeepSet, 6, (3, 2), hidden=[4], dim_element=3, dim_out=2)
    x = normal(4, 6)
    elements = [net.phi(x[:, 2 * i : 2 * i + 2]) for i in range(3)]
    torch.testing.assert_close(net(x), net.rho((elements[0] + elements[1] + elements[2]) / 3))
    torch.testing.assert_close(net(x.view(2, 2, 6))[1, 0], net(x)[2])


def test_a_series_is_its_channels_one_after_the_other():
    net, reference = made(SeriesCNN, 24, (12, 2)), made(CNN1d, 24, (2, 12))
    x = normal(3, 12, 2)
    torch.testing.assert_close(net(x.flatten(1)), reference(x.mT.flatten(1)))


def test_images_with_channels():
    net = made(CNN2d, 24, (2, 3, 4), channels=[1], kernel=1, pool=1, dim_out=12)
    convolution, linear = net.net[0], net.net[-1]
    x = normal(24)
    pixels = torch.einsum("c,chw->hw", convolution.weight[0, :, 0, 0], x.view(2, 3, 4))
    hidden = (pixels + convolution.bias).relu().flatten()
    torch.testing.assert_close(net(x), linear.weight @ hidden + linear.bias)


@pytest.mark.parametrize("cls", [DeepSet, SeriesCNN, CNN2d])
@pytest.mark.parametrize("shape", [(5, 2), (0, 12), (12,), (2, 2, 2, 3)])
def test_shapes_that_do_not_fit(cls, shape):
    with pytest.raises(ConfigError, match=r"embedding\.shape=.*product of 12"):
        cls(12, shape)
