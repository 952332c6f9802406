"""Every metric on posteriors of every kind; see also `tests/test_posterior_contract.py`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, Normal

from robust_npe.attacks import L2, PGD, KLForward, KLReverse, NegativeLogLikelihood
from robust_npe.checks import ConfigError
from robust_npe.metrics import (
    C2ST,
    MMD,
    NLL,
    SBC,
    TARP,
    Context,
    Coverage,
    Detectability,
    Divergence,
    InformationGain,
    Leakage,
    MinimalRadius,
    Predictive,
    ReferencePosterior,
    Soundness,
    TruePosterior,
)
from robust_npe.metrics.base import summary_rows
from robust_npe.random import draws_from, stream
from tests.posteriors import (
    POSTERIORS,
    Classes,
    Scalar,
    Vector,
    data,
    exact_kl,
    make,
    on_grid,
    two_peaks,
)


@pytest.fixture(params=POSTERIORS)
def name(request):
    return request.param


def measure(metric, context):
    measurements = {m.metric: m for m in metric(context)}
    for m in measurements.values():
        if m.per_observation is not None:
            assert m.per_observation.isfinite().all()
        assert m.rows or m.per_observation is not None
    return {n: m.per_observation for n, m in measurements.items()}, measurements


def context_of(name, num=12, attacked=True):
    posterior, task = make(name, torch.float32)
    theta, x = data(task, num, torch.float32)
    return Context(task, posterior, theta, x, x + 0.8 * attacked, attacked, 0, 8)


def test_nll_and_coverage(name):
    c = context_of(name)
    with torch.no_grad():
        q = c.posterior(c.x_adv)
        at_theta = q.log_prob(c.theta.reshape(*q.batch_shape, *q.event_shape))
        double, _ = make(name)
        log_prob, volume = on_grid(double(c.x_adv.double()))
    nll, _ = measure(NLL(), c)
    torch.testing.assert_close(nll["nll"], -at_theta)
    levels, _ = measure(Coverage(400), c)
    above = volume * (log_prob.exp() * (log_prob > at_theta + 1e-5)).sum(0)
    ties = volume * (log_prob.exp() * ((log_prob - at_theta).abs() <= 1e-5)).sum(0)
    margin = 4.5 * 0.5 / 400**0.5
    assert (levels["hpd_level"] > above - margin).all()
    assert (levels["hpd_level"] < above + ties * isinstance(q, Categorical) + margin).all()


def test_sensitivity(name):
    c = context_of(name)
    double, _ = make(name)
    p, q = double(c.x.double()), double(c.x_adv.double())
    got, _ = measure(Divergence(4000), c)
    for metric, expected in (("kl_forward", exact_kl(p, q)), ("kl_reverse", exact_kl(q, p))):
        assert got[metric].shape == (12,)
        mean = float(expected.mean())
        assert float(got[metric].mean()) == pytest.approx(mean, rel=0.1, abs=0.01)
    moved, _ = measure(MMD(100), c)
    still, _ = measure(MMD(100), Context(c.task, c.posterior, c.theta, c.x, c.x, True, 0, 8))
    assert moved["mmd"].shape == (12,)
    assert float(still["mmd"].abs().mean()) < 0.03
    assert float((moved["mmd"] - still["mmd"]).mean()) > 0.003


@torch.no_grad()
def test_comparisons_with_the_true_posterior(name):
    c = context_of(name)
    double, task = make(name)
    p, q = task.true_posterior(c.x_adv.double()), double(c.x_adv.double())
    if name == "classifier":
        expected = (p.base_dist.probs.squeeze(1) * (p.base_dist.logits.squeeze(1) - q.logits)).sum(
            -1
        )
    else:
        with draws_from(stream(0)):
            theta = p.sample((20_000,))
        events = theta.reshape(20_000, *q.batch_shape, *q.event_shape)
        expected = (p.log_prob(theta) - q.log_prob(events)).mean(0)
    got, _ = measure(TruePosterior(4000), c)
    assert float(got["error"].mean()) == pytest.approx(float(expected.mean()), rel=0.1)
    assert got["legitimate_movement"].shape == (12,)
    stored, _ = measure(ReferencePosterior(2, 2000, c2st=False), c)
    reference = stored["reference_error"].float()
    torch.testing.assert_close(reference, got["error"][:2], rtol=0.2, atol=0.1)


def test_comparisons_with_stored_references_and_simulations(name):
    c = context_of(name, attacked=False)
    _, got = measure(C2ST(num_samples=50), c)
    assert 0.3 <= got["c2st"].rows[-1]["value"] <= 1
    _, got = measure(MMD(50), c)
    assert -0.1 < got["mmd_reference"].rows[-1]["value"] < 2
    distances, got = measure(Predictive(10, 20), c)
    assert distances["predictive"].shape == (10,)
    assert got["predictive"].rows == summary_rows(distances["predictive"])


@pytest.mark.parametrize("objective", [KLForward, KLReverse, NegativeLogLikelihood])
def test_soundness_of_an_attack(name, objective):
    c = context_of(name)
    attack = PGD(objective(), steps=40)
    found = attack.search(c.posterior, c.x, c.theta, L2(0.8), stream(0))
    given = {"attack": attack, "ball": L2, "epsilon": 0.8, "found": found, "x_adv": found.x_adv}
    (got,) = Soundness()(replace(c, **given))
    values = {row["statistic"]: row["value"] for row in got.rows}
    missing = {"gradient_error"} if name in ("function", "mixture", "classifier") else set()
    expected = {"zero_gradients", "random", "kl_at_zero", "gradient_error", "flagged"}
    assert set(values) | missing >= expected
    assert values["random"] == values["kl_at_zero"] == 0
    assert values.get("gradient_error", 0) < 0.1


@pytest.mark.parametrize(("criterion", "threshold"), [("kl_forward", 0.03), ("coverage", 0.3)])
def test_minimal_radius(name, criterion, threshold):
    c = replace(context_of(name, attacked=False), attack=PGD(KLForward(), steps=10), ball=L2)
    metric = MinimalRadius(criterion, threshold, searches=4, num_samples=200, num_observations=4)
    (got,) = metric(c)
    assert got.per_observation.shape == (4,)
    assert (got.per_observation >= 0).all()
    assert got.per_observation.isfinite().any()


def exact_scalar(x):
    p = Scalar().true_posterior(x)
    return Normal(p.mean.squeeze(-1), p.stddev.squeeze(-1))


@pytest.mark.parametrize(
    ("task", "exact"),
    [
        (Vector(), lambda x: Vector().true_posterior(x)),
        (Scalar(), exact_scalar),
        (Classes(), lambda x: Categorical(logits=Classes().logits(x))),
    ],
    ids=["vector", "scalar", "classes"],
)
def test_the_exact_posterior_is_calibrated_and_makes_no_error(task, exact):
    theta, x = data(task, 3000, torch.float32)
    c = Context(task, exact, theta, x, x, False, 0, 512)
    _, got = measure(Coverage(100), c)
    (error,) = [r["value"] for r in got["coverage"].rows if r["statistic"] == "mean_absolute_error"]
    assert error < 0.02  # also where classes tie
    levels = got["hpd_level"].per_observation.numpy()
    assert stats.kstest(levels, "uniform").pvalue > 1e-3
    error, _ = measure(TruePosterior(50), c)
    assert float(error["error"].abs().max()) < 1e-4
    _, got = measure(MMD(50), c)
    assert abs(got["mmd_reference"].rows[-1]["value"]) < 0.05


def test_a_posterior_with_another_number_of_parameters_is_refused():
    theta, x = data(Vector(), 5, torch.float32)
    c = Context(Vector(), two_peaks, theta, x, x, False, 0)
    for metric in (NLL(), Coverage()):
        with pytest.raises(ConfigError, match=r"theta.shape=\(5, 2\) .* event shape \(\)"):
            metric(c)


def test_diagnostics(name):
    c = context_of(name, num=24)
    theta, x = data(c.task, 400, torch.float32)
    clean = Context(c.task, c.posterior, theta, x, x, False, 0, 512)
    for metric in (SBC(20), TARP(20), InformationGain(20), Leakage(20), Detectability(2)):
        for context in (c, clean):
            values, got = measure(metric, context)
            if context is clean and metric.name == "detectability":
                assert not got
                continue
            assert all(v is None or len(v) == len(context.x) for v in values.values())
    assert (measure(Leakage(20), c)[0]["leakage"] == 0).all()
