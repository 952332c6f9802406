"""A radius without an idea of one, against planted scatter and another library's neighbours."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from robust_npe.attacks import ThreatModel, auto_unit
from robust_npe.checks import ConfigError
from robust_npe.commands.experiment import Experiment
from robust_npe.random import stream
from tests.own import own_settings
from tests.test_config import composed

STD = torch.tensor([1e-9, 1.0, 1e6])


def replicates(num=4000, std=STD, tail=None):
    """Two simulations each at theta that differ a lot."""
    theta = 100 * torch.randn(num, 3, generator=stream(0)) * std
    noise = torch.randn(2, num, 3, generator=stream(1))
    if tail is not None:
        noise[:, :tail] *= 1e4
    return (theta + noise[0] * std, theta + noise[1] * std)


@pytest.mark.parametrize(("norm", "order"), [("l1", 1), ("l2", 2), ("linf", np.inf)])
def test_scale_and_distance_of_replicates(norm, order):
    unit = auto_unit(norm, *replicates())
    torch.testing.assert_close(unit.scale / STD, torch.ones(3), rtol=0.05, atol=0)
    difference = np.random.default_rng(0).normal(size=(100_000, 3)) * 2**0.5
    expected = np.median(np.linalg.norm(difference, ord=order, axis=1))
    assert unit.length == pytest.approx(expected, rel=0.03)
    if norm == "l2":
        chi = stats.chi.median(3) * 2**0.5
        assert unit.length == pytest.approx(chi, rel=0.03)
        assert ThreatModel(norm, "auto").ball(0.5, None, STD.expand(9, 3), unit).radius == (
            pytest.approx(0.5 * unit.length)
        )


def test_a_few_extreme_simulations_do_not_set_the_scale():
    plain, wild = (auto_unit("l2", *replicates(tail=tail)) for tail in (None, 200))
    torch.testing.assert_close(plain.scale, wild.scale, rtol=0.15, atol=0)
    x, second = replicates()
    second[:50] = torch.nan
    torch.testing.assert_close(auto_unit("l2", x, second).scale, plain.scale, rtol=0.05, atol=0)


def test_features_that_seldom_or_never_change():
    x, second = replicates(std=torch.ones(3))
    x[:, 2] = second[:, 2] = 5.0
    second[:, 1] = x[:, 1]
    second[:400, 1] += 2.0  # a tenth of the pairs
    unit = auto_unit("l2", x, second)
    assert float(unit.scale[1]) == pytest.approx((0.1 * 4 / 2) ** 0.5, rel=1e-4)
    assert float(unit.scale[2]) < 1e-30  # nothing is allowed where nothing varies
    assert math.isfinite(unit.length)


@pytest.mark.parametrize(
    ("norm", "metric"), [("l1", "manhattan"), ("l2", "euclidean"), ("linf", "chebyshev")]
)
def test_distance_of_neighbours(norm, metric):
    x = torch.randn(300, 3, generator=stream(0)) * STD
    unit = auto_unit(norm, x)
    z = (x / x.std(0)).double().numpy()
    distance, _ = NearestNeighbors(n_neighbors=2, metric=metric).fit(z).kneighbors(z)
    assert unit.rule == "neighbours"
    assert unit.length == pytest.approx(np.median(np.sort(distance[:, 1])), rel=0.01)
    torch.testing.assert_close(unit.scale, x.std(0))
    ball = ThreatModel(norm, "auto").ball(2.0, None, x)
    assert ball.radius == pytest.approx(2 * unit.length)


@pytest.mark.parametrize(
    ("x", "second", "message"),
    [
        (torch.zeros(1, 3), None, "at least 10 observations, there are 1: say what a small"),
        (torch.zeros(20, 3), None, "most observations have an equal one"),
        (torch.zeros(20, 3), torch.zeros(20, 3), "two simulations at the same theta are equal"),
        (torch.zeros(20, 3), torch.full((20, 3), torch.nan), "10 pairs of simulations"),
    ],
)
def test_where_nothing_follows_people_are_asked(x, second, message):
    with pytest.raises(ConfigError, match=message) as error:
        auto_unit("l2", x, second)
    assert "epsilon=0.1" in str(error.value)


def test_the_rule_is_named_and_radii_are_told_in_units_of_x():
    unit = auto_unit("l2", *replicates())
    text = unit.text([0.5], ["a", "b", "c"])
    assert "two simulations at the same theta" in text
    assert f"b {0.5 * unit.length * float(unit.scale[1]):.3g}" in text
    many = auto_unit("l2", torch.randn(50, 6, generator=stream(0)) * torch.arange(1, 7))
    text = many.text([1, 2], list("abcdef"))
    assert "nearest neighbours, a lower end" in text
    assert text.count("between") == 2
    assert "(a)" in text
    assert "(f)" in text


def experiment(*words, folder):
    small = ("scale=smoke", "epsilon=null", "epsilon_unit=auto", f"output_dir={folder}")
    return Experiment(composed(*words, *small))


def test_radii_of_a_simulator_and_of_simulations(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    simulator = experiment("task.noise_std=0.3", folder=tmp_path)
    assert simulator.epsilons == [0.25, 0.5, 1.0]
    torch.testing.assert_close(simulator.auto.scale, torch.full((10,), 0.3), rtol=0.3, atol=0)
    assert simulator.ball(1.0).radius == simulator.auto.length
    assert caplog.text.count("epsilon_unit=auto is") == 1  # told once
    again = experiment("task.noise_std=0.3", folder=tmp_path)
    assert again.auto.length == simulator.auto.length
    assert len(list(tmp_path.glob("store/replicates/*/x.npy"))) == 1

    given = own_settings("files", tmp_path, monkeypatch)
    words = ("task=files", *(f"task.{key}={value}" for key, value in given.items()))
    files = experiment(*words, folder=tmp_path)
    assert files.epsilons == [1.0, 2.0, 4.0]
    assert files.auto.rule == "neighbours"


def test_null_needs_the_unit():
    with pytest.raises(ConfigError, match=r"epsilon=None .*epsilon_unit=auto"):
        Experiment(composed("epsilon=null"))
