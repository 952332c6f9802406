"""Margins and damages: closed forms, and what must hold of a trained autoencoder."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from scipy.stats import binomtest, norm

from robust_npe.attacks import L2, PGD, Linf, MaxDamage, ThreatModel
from robust_npe.defenses import NoDefense
from robust_npe.encoders import Encoder
from robust_npe.estimators import MAF, DiagonalGaussian, Estimator, Identity, VariationalAutoencoder
from robust_npe.metrics import (
    Context,
    LikelihoodDegradation,
    MarginBound,
    MarginMeasured,
    ReconstructionDamage,
    RRobustness,
)
from robust_npe.random import draws_from, stream
from robust_npe.tasks import DigitImages
from robust_npe.training import TrainingSettings, train
from tests.encoders import HalfSpace
from tests.helpers import linear_task, make_estimator, pairs

ATTACK = PGD(MaxDamage(4), steps=40)
POSTERIOR = HalfSpace()


def context(posterior, x, **given):
    common = {"attack": ATTACK, "ball": L2, "attacked": False, "x_adv": x}
    task = DigitImages() if x.shape[1] == 64 else linear_task()
    return Context(task, posterior, x, x, seed=0, batch_size=512, **(common | given))


def measure(metric, c):
    found = {m.metric: m for m in metric(c)}
    values = {name: m.per_observation for name, m in found.items()}
    rows = {r["statistic"]: r["value"] for m in found.values() for r in m.rows}
    return values, rows


# Closed forms.


def test_both_margins_of_a_linear_encoder_with_a_half_space_are_exact():
    c = context(POSTERIOR, POSTERIOR.at(10))
    bound, rows = measure(MarginBound(POSTERIOR.r, num_samples=200_000), c)
    exact = torch.full((10,), POSTERIOR.margin, dtype=torch.float64)
    for name in ("margin_spectral", "margin_published"):
        torch.testing.assert_close(bound[name].double(), exact, rtol=0.02, atol=0)
    assert (bound["encoder_std"] == POSTERIOR.sigma).all()
    assert rows["r"] == POSTERIOR.r
    measured, rows = measure(MarginMeasured(POSTERIOR.r, 4.0, num_samples=40_000), c)
    torch.testing.assert_close(measured["margin_upper"].double(), exact, rtol=0.02, atol=0)
    assert rows["broken_fisher_rao"] == 0


def test_margins_are_in_the_unit_of_epsilon():
    x = POSTERIOR.at(4)
    scale = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
    weighted = context(POSTERIOR, x, ball=lambda radius: L2(0.5 * radius, scale))
    bound, _ = measure(MarginBound(POSTERIOR.r, num_samples=20_000), context(POSTERIOR, x))
    other, _ = measure(MarginBound(POSTERIOR.r, num_samples=20_000), weighted)
    factor = float((POSTERIOR.u * scale).norm() / POSTERIOR.u.norm()) / 2
    ratio = bound["margin_spectral"] / other["margin_spectral"]
    torch.testing.assert_close(ratio, torch.full((4,), factor))
    assert MarginBound()(context(POSTERIOR, x, ball=Linf)) == []
    values, rows = measure(MarginMeasured(0.3, searches=2), context(POSTERIOR, x, ball=Linf))
    assert values["margin_upper"].shape == (4,)
    assert "broken_spectral" not in rows


class Recording(PGD):
    """Keeps the radii that it was asked to attack with."""

    radii: list

    def search(self, posterior, x, theta, ball, generator):
        self.radii.append(ball.radius)
        return super().search(posterior, x, theta, ball, generator)


def test_the_bounds_that_are_tried_are_those_of_the_table():
    attack = Recording(MaxDamage(4), steps=2)
    attack.radii = []
    c = context(POSTERIOR, POSTERIOR.at(6), attack=attack)
    bound, _ = measure(MarginBound(POSTERIOR.r, 6, 300, 0.9), c)
    given = {"num_samples": 100, "bound_samples": 300, "confidence": 0.9, "searches": 1}
    MarginMeasured(POSTERIOR.r, **given)(c)
    names = "published", "spectral", "fisher_rao"
    for radius, name in zip(attack.radii[-3:], names, strict=True):
        torch.testing.assert_close(radius, bound[f"margin_{name}"].to(radius))


def test_a_bound_of_zero_cannot_be_broken():
    x = POSTERIOR.at(4)
    r = POSTERIOR.r / 50  # draws are rarely as near as that, before any attack
    c = context(POSTERIOR, x)
    bound, _ = measure(MarginBound(r), c)
    assert (bound["margin_spectral"] == 0).all()
    measured, rows = measure(MarginMeasured(r, searches=2), c)
    assert (measured["margin_upper"] == 0).all()
    assert not [name for name in rows if name.startswith("broken")]


def test_draws_that_all_stay_inside_give_a_finite_margin():
    bound, _ = measure(MarginBound(1.0, num_samples=100), context(POSTERIOR, POSTERIOR.at(3)))
    low = 0.05 ** (1 / 100)  # the lower limit of 100 successes in 100 trials
    expected = norm.ppf(low) * POSTERIOR.sigma / float(POSTERIOR.u.norm())
    assert bound["margin_spectral"] == pytest.approx(torch.full((3,), expected), rel=1e-4)


def test_probabilities_are_those_of_the_half_space_with_limits():
    x = POSTERIOR.at(50)
    c = context(POSTERIOR, x, x_adv=x + POSTERIOR.margin * POSTERIOR.u / POSTERIOR.u.norm())
    clean, rows = measure(RRobustness(POSTERIOR.r, 4000), context(POSTERIOR, x))
    assert float(clean["r_probability"].mean()) == pytest.approx(POSTERIOR.probability, abs=0.002)
    covers = (clean["r_probability_low"] <= POSTERIOR.probability) & (
        clean["r_probability_high"] >= POSTERIOR.probability
    )
    assert int(covers.sum()) >= 43  # 95 % of 50, less three standard deviations
    expected = binomtest(50, 50).proportion_ci(method="exact")
    assert (rows["robust_low"], rows["robust_high"]) == pytest.approx((expected.low, 1.0))
    edge, _ = measure(RRobustness(POSTERIOR.r, 4000), replace(c, attacked=True))
    assert float(edge["r_probability"].mean()) == pytest.approx(0.5, abs=0.005)


def test_damage_is_compared_with_noise_of_the_same_norm():
    x = POSTERIOR.at(300)
    c = context(POSTERIOR, x, attacked=True, x_adv=x + 0.9 * POSTERIOR.u / POSTERIOR.u.norm())
    values, _ = measure(ReconstructionDamage(300), c)
    direction = torch.randn(4000, 5, generator=stream(1))
    noise = 0.9 * direction / direction.norm(dim=1, keepdim=True)
    noisy = x[:1] + noise
    eta = POSTERIOR.sigma * torch.randn(4000, 3, generator=stream(2))
    decoded = POSTERIOR.head.decode(POSTERIOR(noisy).mean + eta)
    expected = float((decoded - 0.1).abs().mean())
    assert float(values["damage_noise"].mean()) == pytest.approx(expected, rel=0.06)
    ratio = values["damage"] / values["damage_noise"]
    torch.testing.assert_close(values["damage_ratio"], ratio)
    assert float(ratio.median()) > 1.5


def test_margins_of_any_gaussian_posterior_and_of_no_other():
    _, x = pairs(linear_task(), 12)
    c = context(make_estimator(DiagonalGaussian, dim_x=2, gain=1.5), x)
    bound, rows = measure(MarginBound(3.0), c)
    assert (bound["margin_spectral"] >= bound["margin_published"]).all()
    assert "kl_weight" not in rows
    attacked = replace(c, attacked=True, x_adv=x + 0.1)
    assert measure(ReconstructionDamage(), attacked)[0]["damage"].isfinite().all()
    assert LikelihoodDegradation()(attacked) == []  # has no decoder
    other = replace(attacked, posterior=make_estimator(MAF, dim_x=2))
    metrics = RRobustness(), ReconstructionDamage(), LikelihoodDegradation()
    assert all(metric(other) == [] for metric in metrics)
    assert MarginBound()(replace(other, attacked=False)) == []
    assert MarginMeasured()(replace(other, attacked=False)) == []


# What must hold of autoencoders of digits.

DIGITS = DigitImages()
R = 1.5


@cache
def autoencoder(beta):
    head = partial(VariationalAutoencoder, kl_weight=beta, hidden=(128,), decoder=(128,))
    with draws_from(stream(0)):
        estimator = Estimator.for_task(DIGITS, head, Identity, "none")
    data, held_out = (DIGITS.stored_pairs(s, 0, slice(0, 2000)) for s in ("train", "validation"))
    settings = TrainingSettings(batch_size=64, learning_rate=2e-3, max_epochs=30, min_epochs=30)
    train(estimator, NoDefense(), data, held_out, settings, stream(0))
    return estimator


def digits(beta, radius=None):
    """Clean, or attacked at a radius."""
    posterior = autoencoder(beta)
    x = DIGITS.part("test", 0)[:100]
    threat = ThreatModel("l2", "absolute", "task")

    def ball(radius):
        return threat.ball(radius, DIGITS, x)

    x_adv = x if radius is None else ATTACK(posterior, x, ball=ball(radius), generator=stream(1))
    return context(posterior, x, ball=ball, x_adv=x_adv, attacked=radius is not None)


@pytest.mark.parametrize("beta", [1.0, 5.0])
def test_what_is_measured_is_above_the_bounds(beta):
    bound, rows = measure(MarginBound(R), digits(beta))
    assert rows["kl_weight"] == beta
    measured, rows = measure(MarginMeasured(R, searches=4, num_samples=200), digits(beta))
    for name in ("margin_published", "margin_fisher_rao"):
        assert (bound[name] <= measured["margin_upper"]).all()
    assert rows["broken_published"] == rows["broken_fisher_rao"] == 0
    # sigma changes, which the sharpest one does not know
    assert float((bound["margin_spectral"] > measured["margin_upper"]).float().mean()) <= 0.03


def test_a_larger_beta_raises_the_bound_and_lowers_the_degradation():
    bounds = [measure(MarginBound(R), digits(b))[0]["margin_published"] for b in (1.0, 10.0)]
    assert float(bounds[1].median()) > 2 * float(bounds[0].median())
    degradations = [
        measure(LikelihoodDegradation(), digits(b, 1.0))[0]["likelihood_degradation"]
        for b in (1.0, 5.0)
    ]
    assert float(degradations[1].median()) < float(degradations[0].median())


def test_the_attack_does_more_damage_than_noise():
    values, _ = measure(ReconstructionDamage(), digits(1.0, 1.0))
    assert float(values["damage"].median()) > 1.6 * float(values["damage_noise"].median())
    assert float(values["damage_ratio"].median()) > 1.6


def test_the_degradation_is_that_of_the_likelihood_of_the_clean_image():
    c = digits(1.0, 0.5)
    values, _ = measure(LikelihoodDegradation(), c)
    head, i = c.posterior.head, 7
    with torch.no_grad():
        z, z_adv = (Encoder(c.posterior)(v).mean[i] for v in (c.x, c.x_adv))
        before, after = (float(head.log_likelihood(c.x[i], v)) for v in (z, z_adv))
    expected = abs(after - before) / abs(before)
    assert float(values["likelihood_degradation"][i]) == pytest.approx(expected, rel=1e-4)
    assert math.isfinite(expected)
    assert expected > 0.01
