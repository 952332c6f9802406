"""Inference over weights: against closed forms, and what it must say of itself."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from robust_npe.bayesian import HMC, SGD, SWAG, DeepEnsemble, MeanFieldVI
from robust_npe.bayesian.moments import Trajectory
from robust_npe.bayesian.network import Diagnostics
from robust_npe.bayesian.optimising import Descent, cross_entropies
from robust_npe.bayesian.vi import gaussian_kl, noisy_logits
from robust_npe.checks import ConfigError
from robust_npe.defenses import FIM, NoDefense
from robust_npe.estimators import MLP
from robust_npe.random import draws_from, stream
from robust_npe.states import adam
from robust_npe.training import infer
from tests.bayesian.common import accuracy, fitted, moons, network
from tests.bayesian.test_chains import sampled

TEST = moons(300, seed=1)


def test_predictive_of_a_bayesian_linear_regression():
    generator, noise = stream(0), 0.3
    x = torch.randn(30, 2, generator=generator)
    y = x @ torch.tensor([1.0, -0.5]) + noise * torch.randn(30, generator=generator)

    def log_density(state):
        residual = y - (x @ state[0]).squeeze(-1)
        return -0.5 * (residual / noise).square().sum(-1) - 0.5 * state[0].square().sum((1, 2))

    found = sampled(log_density, [torch.zeros(40, 2, 1)], 100, 200, generator)
    at = torch.tensor([[1.0, 1.0], [-2.0, 0.5]])
    outputs = (at @ found.draws[0]).squeeze(-1).double()  # (40, 200, 2)
    precision = x.T @ x / noise**2 + torch.eye(2)
    mean = at @ torch.linalg.solve(precision, x.T @ y / noise**2)
    variance = (at @ torch.linalg.inv(precision) * at).sum(-1)
    for values, expected in (
        (outputs.mean(1), mean),
        ((outputs - mean).square().mean(1), variance),
    ):
        error = values.std(0) / 40**0.5
        assert ((values.mean(0) - expected).abs() < 3 * error).all()


def test_hmc_follows_likelihood_and_prior_of_a_small_network():
    # one input that is always 1 and no hidden layer: logits are sums of weight and bias, and the
    # posterior of their difference d is that of a coin, with a normal prior of variance 2 (w + b)
    y = torch.tensor([0] * 7 + [1] * 3)
    head = network(HMC(40, 100, warm_up=100, thinning=2), inputs=1, hidden=(), prior="standard")
    head.inference.fit(head, torch.ones(10, 1), y, stream(0))
    logits = head.logits(torch.ones(1, 1))[:, 0].detach().double()
    difference = (logits[:, 0] - logits[:, 1]).view(40, 100)
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    log_density = 7 * torch.sigmoid(grid).log() + 3 * torch.sigmoid(-grid).log() - grid**2 / 8
    weights = torch.softmax(log_density, 0)
    for values, expected in (
        (difference.mean(1), (weights * grid).sum()),
        (difference.square().mean(1), (weights * grid**2).sum()),
    ):
        error = values.std(0) / 40**0.5
        assert float((values.mean() - expected).abs()) < 3 * float(error)
        assert float(error) < 0.1
    assert head.diagnostics.converged
    assert head.remark == ""


def test_hmc_on_half_moons_tells_how_it_went():
    estimator, facts = fitted(HMC(4, 10, warm_up=60, thinning=2))
    found = estimator.head.diagnostics
    assert 0.6 < found.acceptance < 0.95
    assert found.divergent < 0.01
    assert found.moved > 0.3
    assert accuracy(estimator, *TEST) > 0.97
    assert facts["rhat"] == pytest.approx(found.rhat)
    stuck, _ = fitted(HMC(4, 4, warm_up=1, thinning=1, leapfrog_steps=1, step_size=1e-6))
    assert stuck.head.diagnostics.rhat > 1.1
    assert stuck.head.diagnostics.moved < 0.05
    assert stuck.label.endswith("(not converged)")
    assert not estimator.label.endswith("(not converged)") or found.rhat > 1.1


@pytest.mark.parametrize(
    "inference",
    [
        SGD(epochs=40, batch_size=32, learning_rate=0.02),
        DeepEnsemble(3, epochs=40, batch_size=32, learning_rate=0.02),
        SWAG(6, epochs=40, batch_size=32, learning_rate=0.02),
        MeanFieldVI(8, epochs=60, batch_size=32, learning_rate=0.02),
    ],
    ids=lambda inference: inference.name,
)
def test_every_inference_learns_and_is_a_function_of_the_generator(inference):
    estimator, facts = fitted(inference)
    assert accuracy(estimator, *TEST) > 0.95
    assert facts["train_loss"][-1] < facts["train_loss"][0]
    draws = estimator.head.weights[0].detach()
    assert len(draws) == inference.num_draws
    assert len({w.numpy().tobytes() for w in draws}) == inference.num_draws
    assert not any(estimator.head.diagnostics)
    again, _ = fitted(copy.deepcopy(inference))
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), estimator.parameters(), strict=True)
    )


def test_weights_that_are_not_finite_are_an_error():
    with pytest.raises(
        FloatingPointError, match=r"inference=sgd diverged.*inference.learning_rate"
    ):
        fitted(SGD(epochs=3, learning_rate=1e30))


def test_members_of_an_ensemble_are_trained_as_if_alone():
    theta, x = moons(100)
    head, y = network(), theta.squeeze(-1).long()

    def trained(weights):
        def loss(index):
            return cross_entropies(head.logits(x[index], weights), y[index]).sum()

        descent = Descent(loss, 100, adam(weights, 0.01), 3, 20, stream(1))
        while descent.completed < descent.total:
            descent.step()
        return weights

    start = head.initial(2, stream(0))
    together = trained([w.clone() for w in start])
    for member in (0, 1):
        alone = trained([w[member : member + 1].clone() for w in start])
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a[0], b[member], rtol=1e-3, atol=1e-5)


def test_trajectory_has_the_moments_of_what_it_collected():
    generator = stream(0)
    walk = torch.randn(50, 3, generator=generator).cumsum(0)
    trajectory = Trajectory(5, [walk[0]])
    for w in walk:
        trajectory.collect([w])
    torch.testing.assert_close(trajectory.mean[0], walk.mean(0))
    torch.testing.assert_close(
        trajectory.square[0] - trajectory.mean[0] ** 2,
        walk.var(0, unbiased=False),
        rtol=1e-3,
        atol=1e-4,
    )
    draws = torch.stack([trajectory.draw(generator)[0] for _ in range(20_000)])
    running = torch.stack([walk[: t + 1].mean(0) for t in range(50)])
    deviations = (walk - running)[-5:]
    expected = torch.diag(walk.var(0, unbiased=False)) / 2 + deviations.T @ deviations / (2 * 4)
    torch.testing.assert_close(draws.mean(0), walk.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(draws.T.cov(), expected, atol=0.05 * float(expected.max()), rtol=0)


def test_kl_and_local_noise_of_variational_inference():
    generator = stream(0)
    head = network(inputs=3, classes=2, hidden=(4,), activation="relu")
    means = head.initial(1, generator)
    stds = [0.1 + 0.2 * torch.rand(m.shape, generator=generator) for m in means]
    expected = sum(
        kl_divergence(Normal(m, s), Normal(0.0, p)).sum()
        for m, s, p in zip(means, stds, head.prior_stds, strict=True)
    )
    torch.testing.assert_close(gaussian_kl(means, stds, head.prior_stds), expected)
    # for one input, noise of activations and noise of weights give the same distribution
    x = torch.tensor([[1.0, -0.5, 2.0]])
    local = noisy_logits(head, x.expand(20_000, -1), means, stds, generator)[0]
    drawn = [
        m + s * torch.randn(20_000, *m.shape[1:], generator=generator)
        for m, s in zip(means, stds, strict=True)
    ]
    weights = head.logits(x, drawn)[:, 0]
    torch.testing.assert_close(local.mean(0), weights.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(local.T.cov(), weights.T.cov(), atol=0.03, rtol=0)


def test_variational_inference_without_data_is_the_prior_and_the_published_kl_is_wider():
    flat = network(
        MeanFieldVI(400, epochs=300, learning_rate=0.05, batch_size=50), inputs=1, hidden=()
    )
    flat.inference.fit(flat, torch.zeros(50, 1), torch.zeros(50).long(), stream(0))
    # inputs are zero: nothing is learnt about the matrix
    assert float(flat.weights[0].detach().std()) == pytest.approx(flat.prior_stds[0], rel=0.1)

    def spread(kl):
        _, facts = fitted(MeanFieldVI(5, epochs=60, learning_rate=0.02, batch_size=50, kl=kl))
        return facts["median_std"]

    assert spread("per_batch") > 1.1 * spread("per_dataset")


def test_cross_entropies_are_those_of_each_member():
    logits = torch.randn(3, 5, 4, generator=stream(0))
    y = torch.tensor([0, 1, 2, 3, 0])
    expected = torch.stack([torch.nn.functional.cross_entropy(part, y) for part in logits])
    torch.testing.assert_close(cross_entropies(logits, y), expected)


def test_only_what_inference_makes_is_fitted():
    estimator, _ = fitted(SGD(epochs=1))
    with pytest.raises(ConfigError, match="defense='fim'"):
        infer(estimator, FIM(), moons(50), stream(0))
    with draws_from(stream(0)):
        estimator.embedding = MLP(2)
    with pytest.raises(ConfigError, match="embedding='MLP'"):
        infer(estimator, NoDefense(), moons(50), stream(0))


def test_what_counts_as_converged():
    assert Diagnostics().converged
    assert Diagnostics(acceptance=0.8, rhat=1.05).converged
    assert not Diagnostics(acceptance=0.8, rhat=1.5).converged
    assert not Diagnostics(acceptance=0.8, rhat=1.0, divergent=0.1).converged
