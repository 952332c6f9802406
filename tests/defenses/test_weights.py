"""Posteriors over the weights of flows."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from robust_npe.defenses import Batch, NoDefense, SWAGWeights, VIWeights
from robust_npe.defenses.weights import OWN, _parts, _weights
from robust_npe.estimators import DiagonalGaussian, Estimator, Identity
from robust_npe.random import draws_from, stream
from robust_npe.store.weights import load_weights, save_weights
from robust_npe.tasks import GaussianLinear
from robust_npe.training import TrainingSettings, train
from tests.helpers import pairs

TASK = GaussianLinear((1.0, -0.5), 0.5)


def fresh(defense):
    def head(dim_theta, dim_context):
        return DiagonalGaussian(dim_theta, dim_context, hidden=(8,))

    with draws_from(stream(0)):
        estimator = Estimator(head, Identity, 2, 2, TASK.support)
    return defense.prepare(estimator)


def trained(defense, epochs=8, count=400):
    estimator = fresh(defense)
    settings = TrainingSettings(
        batch_size=50, learning_rate=0.01, max_epochs=epochs, min_epochs=epochs
    )
    train(estimator, defense, pairs(TASK, count), pairs(TASK, 100, seed=1), settings, stream(0))
    return estimator


def test_the_variance_along_a_trajectory():
    defense = SWAGWeights(decay=0.9)
    estimator = fresh(defense)
    defense.setup(estimator, *pairs(TASK, 10))
    weight = _weights(estimator)[0]
    path, mean, variance = (
        torch.randn(30, generator=stream(0)).tolist(),
        float(weight[0, 0].detach()),
        0.0,
    )
    for value in path:
        with torch.no_grad():
            weight[0, 0] = value
            defense.constrain(estimator)
        # weights 0.1 0.9^k, and the start with the rest: moments of that, in closed form below
    weights = torch.tensor(
        [0.1 * 0.9 ** (29 - k) for k in range(30)] + [0.9**30], dtype=torch.float64
    )
    values = torch.tensor([*path, mean], dtype=torch.float64)
    centre = (weights * values).sum()
    variance = (weights * (values - centre).square()).sum()
    means, variances = _parts(estimator)
    assert float(means[0][0, 0]) == pytest.approx(float(centre), rel=1e-4)
    assert float(variances[0][0, 0]) == pytest.approx(float(variance), rel=1e-4)
    assert float(variances[0][1, 0]) == 0  # has not moved


def test_draws_are_around_the_kept_weights():
    defense = SWAGWeights(draws=200, scale=2.0)
    estimator = fresh(defense)
    defense.setup(estimator, *pairs(TASK, 10))
    with torch.no_grad():
        _parts(estimator)[1][0].fill_(0.04)
    members = defense.deploy([estimator], TASK).posteriors
    assert all(not hasattr(member, OWN) for member in members)
    first, second = (
        torch.stack([list(m.parameters())[i] for m in members]).detach() for i in (0, 1)
    )
    deviation = first - _weights(estimator)[0].detach()
    assert float(deviation.std()) == pytest.approx(2 * 0.2, rel=0.1)
    assert float(deviation.mean()) == pytest.approx(0, abs=0.05)
    assert (second == _weights(estimator)[1]).all()
    again = defense.deploy([estimator], TASK).posteriors
    assert torch.equal(next(again[3].parameters()), next(members[3].parameters()))


def test_the_variational_loss_is_the_mean_loss_of_drawn_networks_plus_kl():
    defense = VIWeights(beta=0.7, prior_std=2.0, start_std=0.05)
    estimator = fresh(defense)
    theta, x = pairs(TASK, 20)
    defense.setup(estimator, theta, x)
    losses = torch.stack(
        [defense.loss(estimator, Batch(theta, x), stream(s)).detach() for s in range(1500)]
    )
    expected_kl = sum(
        kl_divergence(Normal(w.detach(), 0.05), Normal(0.0, 2.0)).sum() for w in _weights(estimator)
    )
    drawn = VIWeights(draws=1500, start_std=0.05).deploy([estimator], TASK).posteriors
    with torch.no_grad():
        others = torch.stack([member.loss(theta, x) for member in drawn])
    error = (losses.var() / len(losses) + others.var() / len(others)).sqrt()
    difference = losses.mean() - others.mean() - 0.7 * expected_kl / 20
    assert float(difference.abs()) < 4 * float(error)
    assert float(error) < 0.05 * float(expected_kl * 0.7 / 20)


@pytest.mark.parametrize(
    "defense", [SWAGWeights(draws=5), VIWeights(draws=5)], ids=lambda d: d.name
)
def test_trained_and_stored_they_are_mixtures_that_know_the_posterior(defense, tmp_path):
    estimator = trained(defense)
    save_weights(estimator, tmp_path / "w.safetensors")
    again = fresh(defense)
    load_weights(again, tmp_path / "w.safetensors")
    q, same = (defense.deploy([e.eval()], TASK) for e in (estimator, again))
    theta, x = pairs(TASK, 200, seed=2)
    torch.testing.assert_close(q(x).log_prob(theta), same(x).log_prob(theta))
    assert q(x).num_members == 5
    nll = -float(q(x).log_prob(theta).detach().mean())
    best = -float(TASK.true_posterior(x.double()).log_prob(theta.double()).mean())
    assert best - 0.1 < nll < best + 0.5
    stds = torch.cat([s.flatten() for s in defense._stds(estimator)])
    assert 0 < float(stds.detach().median()) < 0.5


def test_moments_do_not_change_the_training():
    with_moments, plain = trained(SWAGWeights(), 2), trained(NoDefense(), 2)
    for a, b in zip(_weights(with_moments), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_prior_wins_without_data_and_wrong_arguments_are_refused():
    defense = VIWeights(beta=1.0)
    kl = defense._kl([torch.nn.Parameter(torch.zeros(3))], [torch.ones(3)])
    assert float(kl.detach()) == pytest.approx(0)
    narrow = defense._kl([torch.nn.Parameter(torch.zeros(3))], [0.1 * torch.ones(3)])
    assert float(narrow.detach()) == pytest.approx(3 * (0.005 - 0.5 + math.log(10)))
    for wrong in ({"draws": 0}, {"prior_std": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            VIWeights(**wrong)
    with pytest.raises(ValueError, match="decay"):
        SWAGWeights(decay=1.0)
