"""NLL, sensitivity, and comparison with the true posterior, against closed forms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.distributions import Independent, Uniform

from robust_npe.estimators import MAF, DiagonalGaussian, Estimator, Identity
from robust_npe.metrics import NLL, Context, Divergence, TruePosterior, divergence
from robust_npe.metrics.base import summary_rows
from robust_npe.random import draws_from, stream
from robust_npe.tasks import SIR
from tests.helpers import Exact, gaussian_kl, linear_task, make_estimator, pairs

TASK = linear_task()
MOVE = torch.tensor([0.3, -0.2])


def context(estimator, attacked=True, task=TASK, num=60):
    theta, x = pairs(TASK, num)
    x_adv = x + MOVE if attacked else x
    return Context(task, estimator, theta, x, x_adv, attacked, 0, 16)


def values(metric, context):
    """Values per observation; errors, which have no rows of their own, under `<name>_se`."""
    measurements = {m.metric: m for m in metric(context)}
    for name, m in measurements.items():
        rows = [r for r in m.rows if r["statistic"] not in ("median_se", "no_overlap")]
        assert rows == ([] if name.endswith("_se") else summary_rows(m.per_observation))
    return {name: m.per_observation for name, m in measurements.items()}


def q_of(estimator, x):
    p = TASK.true_posterior(x)
    covariance = estimator.spread**2 * p.covariance_matrix
    return torch.distributions.MultivariateNormal(p.mean + estimator.shift, covariance)


def test_nll_by_hand_on_clean_and_attacked_data():
    for attacked in (False, True):
        c = context(Exact(TASK, spread=1.5, shift=0.1), attacked)
        q = q_of(c.posterior, c.x_adv)
        expected = -q.log_prob(c.theta)
        torch.testing.assert_close(values(NLL(), c)["nll"], expected, rtol=1e-4, atol=1e-4)


def test_nll_of_the_exact_posterior_is_its_entropy():
    c = context(Exact(TASK), attacked=False, num=4000)
    entropy = TASK.true_posterior(c.x[:1]).entropy()[0]
    assert float(values(NLL(), c)["nll"].mean()) == pytest.approx(float(entropy), abs=0.06)


def test_sensitivity_in_closed_form():
    c = context(Exact(TASK, spread=1.5))
    got = values(Divergence(), c)
    p, moved = q_of(c.posterior, c.x), q_of(c.posterior, c.x_adv)
    torch.testing.assert_close(got["kl_forward"], gaussian_kl(p, moved), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(got["kl_reverse"], gaussian_kl(moved, p), rtol=1e-3, atol=1e-5)


def test_directions_of_the_sensitivity():
    # an estimator whose spread depends on x, so that the directions differ
    estimator = make_estimator(lambda d, n: DiagonalGaussian(d, n, hidden=[]), dim_x=2, gain=2.0)
    c = context(estimator)
    got = values(Divergence(), c)

    def gaussian(x):
        z = estimator(x).base.base_dist
        return torch.distributions.MultivariateNormal(z.mean, torch.diag_embed(z.variance))

    p, moved = gaussian(c.x), gaussian(c.x_adv)
    torch.testing.assert_close(
        got["kl_forward"], gaussian_kl(p, moved).detach(), atol=1e-4, rtol=1e-3
    )
    torch.testing.assert_close(
        got["kl_reverse"], gaussian_kl(moved, p).detach(), atol=1e-4, rtol=1e-3
    )
    assert float((got["kl_forward"] / got["kl_reverse"] - 1).abs().median()) > 0.02


def test_sensitivity_by_sampling_is_unbiased_and_repeatable():
    estimator = make_estimator(MAF, dim_x=2, gain=1.3)
    c = context(estimator, num=20)
    coarse, fine = (values(Divergence(n), c) for n in (50, 4000))
    for name in ("kl_forward", "kl_reverse"):
        assert float((coarse[name] - fine[name]).mean().abs()) < 0.05 + 0.2 * float(
            fine[name].mean()
        )
        assert torch.equal(values(Divergence(50), c)[name], coarse[name])


@pytest.mark.parametrize("noise", [0.0, 0.1])  # with noise, each call is another posterior
def test_the_clean_posterior_is_drawn_once_and_which_radius_comes_first_does_not_matter(
    noise, monkeypatch
):
    estimator, kept, drawn = make_estimator(MAF, dim_x=2, gain=1.3), {}, []
    original = divergence.draws
    monkeypatch.setattr(divergence, "draws", lambda *args: drawn.append(1) or original(*args))
    far = context(lambda x: estimator(x + noise * torch.randn(x.shape)), num=20)  # two batches
    near = replace(far, x_adv=far.x + MOVE / 2)

    def measured(c):
        with draws_from(stream(0, "radius", float(c.x_adv.sum()))):
            return values(Divergence(50), c)

    alone = measured(far)
    assert len(drawn) == 4
    measured(replace(near, kept=kept))
    after = measured(replace(far, kept=kept))
    assert len(drawn) == 4 + 4 + 2
    assert all(torch.equal(after[name], value) for name, value in alone.items())


@pytest.mark.parametrize(("metric", "name"), [(Divergence, "kl_reverse"), (TruePosterior, "error")])
def test_standard_errors_are_the_spread_of_repeated_estimates(metric, name):
    estimator = make_estimator(MAF, dim_x=2, gain=2.0)
    c = context(estimator, num=20)
    repeated = [metric(100)(replace(c, seed=seed)) for seed in range(100)]
    found = [{m.metric: m for m in each} for each in repeated]
    estimates, errors = (
        torch.stack([f[key].per_observation for f in found]) for key in (name, f"{name}_se")
    )
    ratio = errors.square().mean(0).sqrt() / estimates.std(0)
    assert float(ratio.median()) == pytest.approx(1, abs=0.15)
    medians, median_errors = (
        torch.tensor([r["value"] for f in found for r in f[name].rows if r["statistic"] == key])
        for key in ("median", "median_se")
    )
    assert 0.8 < float(median_errors.mean() / medians.std()) < 1.4


def test_closed_forms_have_no_error():
    got = values(Divergence(), context(Exact(TASK, spread=1.5)))
    assert not got["kl_forward_se"].any()


def test_total_variation_in_closed_form():
    # N(m, C) and N(m', C): 2 Phi(d/2) - 1 at Mahalanobis distance d
    c = context(Exact(TASK, spread=1.5))
    p, moved = q_of(c.posterior, c.x), q_of(c.posterior, c.x_adv)
    distance = (2 * gaussian_kl(p, moved)).sqrt()
    expected = 2 * torch.special.ndtr(distance / 2) - 1
    found = {m.metric: m for m in Divergence(4000)(c)}
    got, error = (found[n].per_observation for n in ("total_variation", "total_variation_se"))
    assert ((got - expected).abs() < 4 * error).all()
    assert (error < 0.01).all()
    assert 0.05 < float(expected.min()) < 0.9


def test_total_variation_is_bounded_where_the_kl_is_not():
    c = context(lambda x: Independent(Uniform(x, x + 1), 1))  # moved by 0.3 and 0.2
    found = {m.metric: m.per_observation for m in Divergence(4000)(c)}
    assert (found["kl_forward"] == torch.inf).all()
    torch.testing.assert_close(
        found["total_variation"], torch.full((60,), 1 - 0.7 * 0.8), rtol=0, atol=0.05
    )


def test_no_sensitivity_without_attack():
    assert Divergence()(context(Exact(TASK), attacked=False)) == []


def test_error_and_legitimate_movement_in_closed_form():
    c = context(Exact(TASK, spread=1.3, shift=0.2))
    got = values(TruePosterior(20_000), c)
    p, p_adv = TASK.true_posterior(c.x), TASK.true_posterior(c.x_adv)
    torch.testing.assert_close(
        got["legitimate_movement"], gaussian_kl(p, p_adv), rtol=1e-3, atol=1e-5
    )
    expected = gaussian_kl(p_adv, q_of(c.posterior, c.x_adv))
    torch.testing.assert_close(got["error"], expected, rtol=0.05, atol=0.01)
    # not the other way round
    reverse = gaussian_kl(q_of(c.posterior, c.x_adv), p_adv)
    assert float((expected / reverse - 1).abs().min()) > 0.2


def test_movement_of_the_exact_posterior_has_the_protocol_s_form():
    c = context(Exact(TASK))
    a, precision = TASK.slopes, TASK.noise_std**-2
    m = (precision * a) ** 2 / (1 + a**2 * precision)
    expected = 0.5 * (m * MOVE.double() ** 2).sum().float()
    got = values(TruePosterior(), c)["legitimate_movement"]
    torch.testing.assert_close(got, expected.expand(60), rtol=1e-3, atol=1e-5)


def test_exact_posterior_makes_no_error():
    for attacked in (False, True):
        c = context(Exact(TASK), attacked)
        got = values(TruePosterior(), c)
        torch.testing.assert_close(got["error"], torch.zeros(60), atol=1e-4, rtol=0)
        assert ("legitimate_movement" in got) == attacked


def test_tasks_without_known_posterior_are_left_out():
    sir = SIR(num_points=4)
    with draws_from(stream(0)):
        estimator = Estimator(DiagonalGaussian, Identity, 2, 4, sir.support)
    x = torch.ones(3, 4)
    c = Context(sir, estimator, torch.zeros(3, 2), x, x, True, 0)
    assert TruePosterior()(c) == []


@pytest.mark.parametrize("metric", [Divergence, TruePosterior])
def test_settings_are_checked(metric):
    with pytest.raises(ValueError, match="num_samples"):
        metric(0)
