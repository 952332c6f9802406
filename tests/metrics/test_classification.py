"""Metrics of classifiers, by hand and on planted masking."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from robust_npe.attacks import PGD, NegativeLogLikelihood, make_ball
from robust_npe.bayesian import HMC, DeepEnsemble
from robust_npe.bayesian.mixture import CategoricalMixture
from robust_npe.metrics import (
    Accuracy,
    Context,
    ExpectedGradient,
    Masking,
    SoftmaxRobustness,
    WeightPosterior,
)
from robust_npe.metrics.soundness import flags
from robust_npe.random import stream
from robust_npe.tasks import HalfMoons
from tests.attacks.test_classifying import Scaled
from tests.bayesian.common import fitted, moons


def context(posterior, x_adv=None, radius=0.5, num=60):
    theta, x = moons(num, seed=1)
    adv = x if x_adv is None else x_adv
    ball = lambda r: make_ball("linf", r)  # noqa: E731
    attack = PGD(NegativeLogLikelihood(), 5)
    shared = HalfMoons(), posterior, theta, x, adv, x_adv is not None, 0, 512
    return Context(*shared, attack, ball, radius if x_adv is not None else None)


def statistics(measurements, metric):
    rows = [r for m in measurements if m.metric == metric for r in m.rows]
    return {(r["statistic"], r["level"]): r["value"] for r in rows}


class Linear(nn.Module):
    """Two networks whose logits are linear in x; the second is the negative of the first."""

    classifies = True

    def forward(self, x):
        first = torch.stack((3 * x[:, 0], torch.zeros_like(x[:, 0])), -1)
        return CategoricalMixture(torch.stack((first, -first)))


def test_accuracy_and_softmax_robustness_by_hand():
    class First(nn.Module):
        def forward(self, x):
            return CategoricalMixture(torch.stack((x[:, 0], 0 * x[:, 0]), -1).unsqueeze(0))

    clean = context(First())
    expected = ((clean.x[:, 0] < 0).float() == clean.theta[:, 0]).double().mean()
    found = statistics(Accuracy()(clean), "accuracy")
    assert found["mean", None] == pytest.approx(float(expected))
    assert SoftmaxRobustness()(clean) == []
    moved = context(First(), clean.x + 1)
    change = (torch.sigmoid(clean.x[:, 0] + 1) - torch.sigmoid(clean.x[:, 0])).abs()
    found = SoftmaxRobustness()(moved)[0].per_observation
    torch.testing.assert_close(found, 1 - change)


def test_gradients_of_networks_that_cancel():
    # of a network and its negative the gradients cancel where predictions are even: p - (1 - p)
    found = statistics(ExpectedGradient(draws=[1, 7])(context(Linear())), "expected_gradient")
    x = context(Linear()).x[:, 0]
    y = context(Linear()).theta[:, 0]
    single = 3 * torch.stack([torch.sigmoid(s * 3 * x) - (1 - y) for s in (1, -1)])
    expected = torch.stack((single[0], -single[1])).mean(0).abs()
    assert found["mean", 2.0] == pytest.approx(float(expected.mean()), rel=1e-4)
    assert found["single", None] == pytest.approx(float(single.abs().mean()), rel=1e-4)
    assert {level for _, level in found} == {1.0, 2.0, None}
    assert found["zero_single", None] == 0


def test_nothing_is_measured_of_other_posteriors():
    def gaussian(x):
        return Independent(Normal(torch.zeros(len(x), 1), 1.0), 1)

    for metric in (Accuracy(), ExpectedGradient(), Masking(), WeightPosterior()):
        assert metric(context(gaussian)) == []


def test_what_a_sampler_told_is_measured():
    estimator, facts = fitted(HMC(2, 4, warm_up=5, thinning=1), num=50)
    found = statistics(WeightPosterior()(context(estimator)), "weight_posterior")
    assert found["acceptance", None] == pytest.approx(facts["acceptance"])
    assert found["converged", None] == float(estimator.head.diagnostics.converged)


def test_masking_is_told_where_it_is_planted_and_nowhere_else():
    network, _ = fitted(DeepEnsemble(3, epochs=40, batch_size=32, learning_rate=0.02))

    def measured(posterior):
        clean = context(posterior)
        attack = PGD(NegativeLogLikelihood(), 5)
        x_adv = attack(posterior, clean.x, clean.theta, ball=clean.ball(0.5), generator=stream(0))
        return Masking()(context(posterior, x_adv))

    def told(measurements):
        rows = [{"metric": m.metric, "epsilon": 0.5, **r} for m in measurements for r in m.rows]
        return flags(pd.DataFrame(rows))

    plain, masked = measured(network), measured(Scaled(network, 1000.0))
    assert told(plain) == {}
    assert "gradients are masked" in told(masked)["masked"]
    found = statistics(masked, "masking")
    assert found["pgd", None] >= 0.8 * found["clean", None]
    assert found["worst", None] <= 0.05
    assert found["masked", None] == pytest.approx(found["pgd", None] - found["worst", None])
