from __future__ import annotations

import pytest
import torch

from robust_npe.checks import ConfigError
from robust_npe.estimators import CNN1d, CNN2d, PyloricCNN
from robust_npe.random import draws_from, stream


def made(cls, *args, **kwargs):
    with draws_from(stream(0)):
        return cls(*args, **kwargs)


def normal(*shape):
    return torch.randn(shape, generator=stream(1))


@pytest.mark.parametrize("length", [1, 2, 50, 800])
def test_any_length_and_any_batch_shape(length):
    net = made(CNN1d, 2 * length, (2, length), dim_out=7)
    x = normal(3, 4, 2 * length)
    assert net(x).shape == (3, 4, 7)
    torch.testing.assert_close(net(x)[1, 2], net(x[1, 2]))


def test_one_layer_against_sums_written_out():
    net = made(CNN1d, 8, (2, 4), channels=[1], kernel=3, pool=2, dim_out=1)
    convolution, linear = net.net[0], net.net[-1]
    x = normal(8)
    padded = torch.zeros(2, 6)
    padded[:, 1:5] = x.view(2, 4)  # channel after channel
    sums = torch.stack([(padded[:, i : i + 3] * convolution.weight[0]).sum() for i in range(4)])
    pooled = (sums + convolution.bias).relu().view(2, 2).amax(1)
    torch.testing.assert_close(net(x), pooled @ linear.weight[0] + linear.bias)


def test_images_are_read_row_by_row():
    net = made(CNN2d, 12, (3, 4), channels=[1], kernel=1, pool=1, dim_out=12)
    with torch.no_grad():
        net.net[0].weight.fill_(1)
        net.net[0].bias.zero_()
        net.net[-1].weight.copy_(torch.eye(12))
        net.net[-1].bias.zero_()
    x = normal(12).abs()
    torch.testing.assert_close(net(x), x)
    assert made(CNN2d, 900)(normal(2, 900)).shape == (2, 50)


def test_published_sizes():
    net = made(PyloricCNN, 2400)
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv1d)]
    assert [c.out_channels for c in convolutions] == 3 * [6, 9, 12]
    linear = [m for m in net.join.modules() if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(300, 200), (200, 100), (100, 100)]
    assert net(normal(2, 2400)).shape == (2, net.dim_out) == (2, 100)


def test_every_cell_has_its_own_net():
    net, x = made(PyloricCNN, 30), normal(30)
    with torch.no_grad():
        net.nets[1].net[-1].weight.zero_()
    changed = x.clone()
    changed[10:20] = 3.0
    assert torch.equal(net(x), net(changed))
    changed[0] = 3.0
    assert not torch.equal(net(x), net(changed))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CNN1d(10, (3, 4)), r"shape=\(3, 4\).*product of 10"),
        (lambda: CNN2d(10), "shape=None.*product of 10"),
        (lambda: CNN1d(10, kernel=4), "kernel=4.*odd"),
        (lambda: CNN1d(10, pool=0), "pool=0"),
        (lambda: CNN2d(9, channels=[]), r"channels=\[\]"),
        (lambda: CNN2d(9, dim_out=0), "dim_out=0"),
        (lambda: PyloricCNN(10), "cells=3.*divisor of the 10"),
        (lambda: PyloricCNN(9, dim_cell=0), "dim_cell=0"),
        (lambda: PyloricCNN(9, hidden=[0]), "hidden"),
    ],
)
def test_wrong_settings_are_named(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
