from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal
from torch.distributions.constraints import real_vector

from robust_npe.checks import ConfigError
from robust_npe.defenses import NoDefense
from robust_npe.estimators import MAF, MLP, Estimator, Identity, Standardize
from robust_npe.estimators.standardize import KINDS, standardization
from robust_npe.random import draws_from, stream
from robust_npe.training import TrainingSettings, train
from tests.helpers import observations, prior_draws

EXACT = math.log(2 * math.pi * math.e * 0.09 / 1.09)  # NLL of p(theta|x) below


class Linear(nn.Module):
    """N(W context + b, diag(std^2)), which contains the posterior of the linear task."""

    name = "linear"

    def __init__(self, dim_theta, dim_context):
        super().__init__()
        self.mean = nn.Linear(dim_context, dim_theta)
        self.log_std = nn.Parameter(torch.zeros(dim_theta))

    def forward(self, context):
        mean = self.mean(context)
        return Independent(Normal(mean, self.log_std.exp().expand_as(mean)), 1)


def linear_data(num, seed):
    theta = torch.randn(num, 2, generator=stream(seed, "theta"))
    return theta, theta + 0.3 * torch.randn(num, 2, generator=stream(seed, "x"))


def excess(kind="zscore", x_of=lambda x: x, theta_unit=1.0, outlier=None):
    """Test NLL of a trained estimator in nats above the closed form."""
    sets = [linear_data(num, seed) for seed, num in enumerate((2000, 500, 4000))]
    data, validation, test = [(theta_unit * theta, x_of(x)) for theta, x in sets]
    if outlier is not None:
        data[1][7, 0] = outlier
    with draws_from(stream(0)):
        estimator = Estimator(Linear, Identity, 2, 2, real_vector, kind)
    settings = TrainingSettings(batch_size=100, max_epochs=12, learning_rate=3e-2)
    train(estimator, NoDefense(), data, validation, settings, stream(0))
    with torch.no_grad():
        return float(estimator.loss(*test)) - EXACT - 2 * math.log(theta_unit)


@pytest.mark.parametrize("unit", [1e-9, 1e-4, 1.0, 1e6])
@pytest.mark.parametrize("which", ["x", "theta"])
def test_units_of_x_and_theta_do_not_matter(which, unit):
    # an absolute floor gives 2.4 for small x: the prior
    found = excess(x_of=lambda x: unit * x) if which == "x" else excess(theta_unit=unit)
    assert found == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("robust", {}),
        ("robust", {"outlier": 1e30}),
        ("robust", {"outlier": -1e30, "x_of": lambda x: 1e-9 * x}),
        ("auto", {"x_of": lambda x: 50 + x, "outlier": 1e30}),
        ("log", {"x_of": lambda x: (3 * x).exp()}),
        ("log", {"x_of": lambda x: -1e-20 * (3 * x).exp()}),
    ],
)
def test_heavy_tails_take_nothing_away(kind, settings, caplog):
    assert excess(kind, **settings) == pytest.approx(0, abs=0.05)
    assert not caplog.records


@pytest.mark.parametrize("settings", [{"outlier": 1e30}, {"x_of": lambda x: (3 * x).exp()}])
def test_zscore_says_where_it_loses_information(settings, caplog):
    assert excess(**settings) > 0.5
    assert caplog.text.count("try standardize=robust or log") == 1
    assert "x_1" in caplog.text
    assert ("x_2" in caplog.text) == ("x_of" in settings)


def test_by_default_features_of_one_sign_are_robust_and_the_others_z_scored():
    x = torch.randn(500, 3, generator=stream(0)).exp() * torch.tensor([1.0, -1e6, 1e-9])
    x[::2, 1] *= -1
    auto, robust, zscore = (standardization(kind, 3) for kind in ("auto", "robust", "zscore"))
    for each in (auto, robust, zscore):
        each.fit(x)
    expected = torch.stack([robust(x)[:, 0], zscore(x)[:, 1], robust(x)[:, 2]], dim=1)
    torch.testing.assert_close(auto(x), expected)
    units = [each.unit(x).expand_as(x) for each in (robust, zscore)]
    torch.testing.assert_close(auto.unit(x)[:, [0, 2]], units[0][:, [0, 2]])
    torch.testing.assert_close(auto.unit(x)[:, 1], units[1][:, 1])


@pytest.mark.parametrize("kind", ["auto", "zscore", "robust", "log"])
def test_standardised_data_have_no_units(kind):
    x = torch.randn(500, 3, generator=stream(0)) * torch.tensor([1.0, 4.0, 0.1]) + 2
    units = 2.0 ** torch.tensor([-40, 3, 30])  # powers of two are exact
    one, other = standardization(kind, 3), standardization(kind, 3)
    one.fit(x)
    other.fit(units * x)
    torch.testing.assert_close(other(units * x), one(x), rtol=1e-6, atol=1e-6)


def test_features_that_do_not_vary_take_the_typical_scale():
    x = torch.randn(1000, 6, generator=stream(0)) * torch.tensor([0.0, 1e-3, 1.0, 4.0, 9.0, 0.0])
    x += torch.tensor([7.0, 1e6, 1e6, 0.0, 0.0, 0.0])  # of 1e-3 beside 1e6, rounding is left
    standardize = Standardize(6)
    assert standardize.fit(x).tolist() == [True, True, False, False, False, True]
    expected = torch.tensor([4.0, 4.0, 1.0, 4.0, 9.0, 4.0])
    torch.testing.assert_close(standardize.std, expected, rtol=0.1, atol=0)
    assert standardize.fit(torch.ones(5, 6)).all()
    assert torch.equal(standardize.std, torch.ones(6))
    assert standardize.fit(x[:1]).all()  # one observation varies in nothing


def test_the_published_floor_is_absolute():
    x = torch.tensor([0.01, 1.0]) * torch.randn(1000, 2, generator=stream(0))
    published, default = standardization("published", 2), Standardize(2)
    assert published.fit(x).tolist() == [True, False]
    default.fit(x)
    assert published.std[0] == torch.tensor(0.05)
    assert published.std[1] == default.std[1]


def test_what_is_constant_is_said_once_with_names(caplog):
    with draws_from(stream(0)):
        estimator = Estimator(Linear, Identity, 2, 8, real_vector)
    estimator.x_names = [f"trace({i})" for i in range(8)]
    x, theta = observations(100, 8), prior_draws(100)
    x[:, 1:] = 3.0
    theta[:, 1] = 0.5
    with caplog.at_level(logging.WARNING):
        estimator.fit_standardization(theta, x)
    remark = "hardly varies in the training data: it is not scaled to unit variance"
    expected = [
        f"theta_2: {remark}",
        f"trace(1), trace(2), trace(3), trace(4), trace(5) and 2 more: {remark}",
    ]
    assert estimator.remarks == expected == caplog.messages
    estimator.fit_standardization(prior_draws(100), observations(100, 8))
    assert estimator.remarks == []


@pytest.mark.parametrize("kind", KINDS)
def test_one_to_one_with_the_slope_of_automatic_differentiation(kind):
    x = 3 * torch.randn(300, 2, generator=stream(0)).double() ** 3  # far beyond the linear part
    standardize = standardization(kind, 2).double()
    standardize.fit(x)
    x = x.sort(0).values.requires_grad_(True)
    z = standardize(x)
    assert (z.diff(dim=0) > 0).all()
    (slope,) = torch.autograd.grad(z.sum(), x)
    torch.testing.assert_close((1 / standardize.unit(x)).expand_as(x), slope)


@pytest.mark.parametrize("net", [Identity, MLP])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_every_standardisation(kind, net):
    def make(kind):
        with draws_from(stream(0)):
            return Estimator(MAF, net, 2, 3, real_vector, kind).double()

    estimator, bare = make(kind), make("none")
    x = observations(200).double() ** 3
    estimator.fit_standardization(prior_draws(200), x)
    x = x[:20].requires_grad_(True)
    z = estimator.standardize(x)
    of_z = bare.scores(z.detach(), 2, stream(1), attached=False)  # with respect to z
    expected = [torch.autograd.grad(z, x, s, retain_graph=True)[0] for s in of_z]
    found = estimator.scores(x, 2, stream(1), attached=False)
    torch.testing.assert_close(found, torch.stack(expected))
    assert float(found.abs().max()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_overflows(kind):
    standardize = standardization(kind, 1)
    x = torch.tensor([[1e-30], [2e-30], [0.0], [-1e38], [3e38]])
    standardize.fit(x)
    assert standardize(x).isfinite().all()


def test_statistics_in_parts_are_those_of_the_whole(monkeypatch):
    x = 3 + 2 * torch.randn(1000, 4, generator=stream(0))
    whole, parts = Standardize(4), Standardize(4)
    whole.fit(x)
    monkeypatch.setattr("robust_npe.estimators.standardize.ROWS", 64)
    parts.fit(x)
    torch.testing.assert_close(whole.mean, x.double().mean(0).float())
    torch.testing.assert_close(whole.std, x.double().std(0, correction=0).float())
    torch.testing.assert_close(parts.mean, whole.mean)
    torch.testing.assert_close(parts.std, whole.std)


def test_unknown_kinds_are_refused():
    with pytest.raises(ConfigError, match=r"standardize='minmax'.*zscore.*robust"):
        Estimator(Linear, Identity, 2, 2, real_vector, "minmax")
