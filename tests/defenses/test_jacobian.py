import copy

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from robust_npe.checks import ConfigError
from robust_npe.defenses import Batch, Jacobian
from robust_npe.estimators import (
    MAF,
    NSF,
    DiagonalGaussian,
    FullGaussian,
    Head,
    MixtureDensityNetwork,
)
from robust_npe.random import draws_from, stream
from tests.helpers import make_estimator, observations, prior_draws

HEADS = {
    "gaussian": DiagonalGaussian,
    "gaussian_full": FullGaussian,
    "maf": MAF,
    "nsf": NSF,
    "mdn": MixtureDensityNetwork,
}


def double(kind, support="real"):
    def head(dim_theta, dim_context):
        return HEADS[kind](dim_theta, dim_context, hidden=(16, 16))

    return make_estimator(head, support, gain=1.3).double()


@pytest.fixture(autouse=True)
def infinitesimal(monkeypatch):
    """In float64 differences may be so small that no kink of a network lies between."""
    monkeypatch.setattr("robust_npe.defenses.jacobian.STEP", 1e-6)


def set_up(estimator, num_samples=1):
    defense = Jacobian(0.5, "exact", num_samples=num_samples)
    theta = prior_draws(100).double()
    defense.setup(estimator, theta, observations(100).double())
    return defense, theta.std(0, correction=0)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("support", ["real", "box"])
def test_penalty_is_the_squared_norm_of_the_jacobian_of_samples(kind, support):
    """Against autograd's Jacobian of `rsample`, both averaged over their noise."""
    estimator = double(kind, support)
    num = 1000
    defense, std = set_up(estimator, num)
    x = observations(2).double()
    value = defense.penalty(estimator, x, stream(2), attached=False)
    for i in range(2):
        copies = x[i].expand(num, -1).clone().requires_grad_(True)
        with draws_from(stream(1, "noise")):
            theta = estimator(copies).rsample() / std
        rows = [
            torch.autograd.grad(theta[:, j].sum(), copies, retain_graph=True)[0] for j in range(2)
        ]
        norms = sum(row.square().sum(-1) for row in rows)
        spread = float(norms.std() + norms.square().mean().sqrt())  # of noise and projections
        assert float(value[i]) == pytest.approx(float(norms.mean()), abs=5 * spread / num**0.5)


@pytest.mark.parametrize("kind", HEADS)
def test_gradient_is_that_of_the_estimate(kind):
    """Against finite differences in the weights, with the noise held. Samples of a mixture are no
    function of noise: there both are expectations, and the steps are long, without kinks."""
    estimator = double(kind)
    num_samples, step, tolerance = (5000, 1e-2, 0.05) if kind == "mdn" else (20, 1e-5, 0.02)
    if kind == "mdn":
        layers = (nn.Tanh() if isinstance(m, nn.ReLU) else m for m in estimator.head.net)
        estimator.head.net = nn.Sequential(*layers)
    defense, _ = set_up(estimator, num_samples)
    x = observations(20).double()
    parameters = list(estimator.parameters())
    penalty = defense.penalty(estimator, x, stream(0), attached=True).mean()
    gradients = torch.autograd.grad(penalty, parameters)
    with draws_from(stream(1)):
        direction = [torch.randn_like(p) for p in parameters]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))

    def moved(step):
        other = copy.deepcopy(estimator)
        with torch.no_grad():
            for p, d in zip(other.parameters(), direction, strict=True):
                p.add_(step * d)
        return float(defense.penalty(other, x, stream(0), attached=False).mean())

    expected = (moved(step) - moved(-step)) / (2 * step)
    assert slope == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("kind", ["gaussian", "mdn"])
def test_it_has_no_units_of_theta(kind):
    """What is trained on 1000 theta has the same penalty; half of x has four times of it."""

    def penalty(scale_theta, scale_x):
        estimator = double(kind)
        estimator.bijection.standardize.std.mul_(scale_theta)
        estimator.standardize.std.mul_(scale_x)
        estimator.standardize.mean.mul_(scale_x)
        defense = Jacobian(0.5, "exact")
        x = scale_x * observations(100).double()
        defense.setup(estimator, scale_theta * prior_draws(100).double(), x)
        return defense.penalty(estimator, x, stream(0), attached=False)

    torch.testing.assert_close(penalty(1000.0, 1.0), penalty(1.0, 1.0))
    torch.testing.assert_close(penalty(1.0, 0.5), 4 * penalty(1.0, 1.0))


def test_in_single_precision_it_is_the_same(monkeypatch):
    monkeypatch.setattr("robust_npe.defenses.jacobian.STEP", 1e-2)  # the one that is used
    for kind in HEADS:
        estimator, x = double(kind), observations(200).double()
        defense, _ = set_up(estimator)
        exact = defense.penalty(estimator, x, stream(0), attached=False).mean()
        single = copy.deepcopy(estimator).float()
        defense.setup(single, prior_draws(100), observations(100))
        value = defense.penalty(single, x.float(), stream(0), attached=False).mean()
        assert float(value) == pytest.approx(float(exact), rel=0.5)


class Unreparameterised(Head):
    def __init__(self, dim_theta, dim_context):
        super().__init__()
        self.net = nn.Linear(dim_context, dim_theta)

    def forward(self, context):
        q = Independent(Normal(self.net(context), 1.0), 1)
        q.base_dist.has_rsample = False
        return q


def test_samples_without_gradient_are_refused():
    estimator = make_estimator(Unreparameterised)
    defense = Jacobian()
    data = prior_draws(20), observations(20)
    defense.setup(estimator, *data)
    with pytest.raises(ConfigError, match=r"jacobian.*no reparameterised samples.*maf"):
        defense.loss(estimator, Batch(*data), stream(0))
