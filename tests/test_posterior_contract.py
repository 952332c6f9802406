"""One contract for posteriors of any kind: attacks, divergences, Fisher information and metrics."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Normal

from robust_npe.attacks import (
    FGSM,
    PGD,
    KLForward,
    KLReverse,
    NegativeLogLikelihood,
    Noise,
    make_ball,
)
from robust_npe.attacks.objectives import Sampled
from robust_npe.checks import ConfigError
from robust_npe.divergences import kl
from robust_npe.estimators import DiagonalGaussian, Estimator, Identity
from robust_npe.fisher import fisher_eigenvalue, fisher_information, fisher_trace, scores
from robust_npe.metrics import (
    C2ST,
    MMD,
    NLL,
    Context,
    Coverage,
    Divergence,
    Predictive,
    ReferencePosterior,
    TruePosterior,
)
from robust_npe.metrics.base import summary_rows
from robust_npe.random import draws_from, stream
from tests.helpers import prior
from tests.posteriors import (
    POSTERIORS,
    SMOOTH,
    Classes,
    EvenMixture,
    Scalar,
    Vector,
    data,
    differences,
    exact_information,
    exact_kl,
    exact_value,
    make,
    on_grid,
    trace,
    two_peaks,
)

OBJECTIVES = {"kl_forward": KLForward, "kl_reverse": KLReverse, "nll": NegativeLogLikelihood}


@pytest.fixture(params=POSTERIORS)
def name(request):
    return request.param


# Divergences.


def test_kl_of_both_directions(name):
    posterior, task = make(name)
    x = data(task, 4)[1]
    p, q = posterior(x), posterior(x + 0.4)
    for one, other in ((p, q), (q, p)):
        expected = exact_kl(one, other)
        with torch.no_grad():
            estimates = torch.stack([kl(one, other, 500, stream(i)) for i in range(30)])
        error = estimates.std(0) / 30**0.5
        assert ((estimates.mean(0) - expected).abs() < 4.5 * error + 2e-3).all()
        assert (error < 0.1 * expected + 0.01).all()


@pytest.mark.parametrize("num_samples", [1, 2])
@pytest.mark.parametrize("objective", ["kl_forward", "kl_reverse"])
def test_the_gradient_that_an_attack_climbs(name, objective, num_samples):
    posterior, task = make(name)
    x = data(task, 2)[1]
    x_adv = x + torch.tensor([0.5, -0.3], dtype=x.dtype)
    expected = differences(lambda v: exact_value(objective, posterior, x, v, None), x_adv, 1e-4)
    repeats = 6000
    copies = x_adv.repeat(repeats, 1).requires_grad_(True)
    few = {"pool": num_samples} if objective == "kl_forward" else {}
    bind = OBJECTIVES[objective](num_samples, **few)
    climb = bind(posterior, x.repeat(repeats, 1), None, stream(0))
    climb = climb.step if isinstance(climb, Sampled) else climb
    (gradient,) = torch.autograd.grad(climb(copies).sum(), copies)
    gradient = gradient.unflatten(0, (repeats, 2))
    error = gradient.std(0) / repeats**0.5
    assert ((gradient.mean(0) - expected).abs() < 4.5 * error + 3e-3).all()
    assert (error < 0.2 * expected.norm(dim=-1, keepdim=True)).all()  # else this shows nothing


# Fisher information.


def test_fisher_information_trace_and_eigenvalue(name):
    posterior, task = make(name)
    x = data(task, 3)[1]
    expected = exact_information(posterior, x)
    information = fisher_information(posterior, x, 20_000, stream(0))
    found = fisher_trace(posterior, x, 20_000, stream(0), attached=False)
    torch.testing.assert_close(found, trace(information))
    score = scores(posterior, x, 20_000, stream(0), attached=False)
    error = torch.einsum("sbi,sbj->sbij", score, score).std(0) / 20_000**0.5
    largest = expected.abs().amax()
    assert ((information - expected).abs() < 5 * error + 1e-3 * largest).all()
    assert (error < 0.1 * largest).all()
    eigenvalue = fisher_eigenvalue(posterior, x, 1000, stream(2), attached=False)
    exact = torch.linalg.eigvalsh(expected)[:, -1]
    torch.testing.assert_close(eigenvalue, exact, rtol=0.3, atol=0)
    assert not found.requires_grad


@pytest.mark.parametrize("name", SMOOTH)
def test_gradient_of_the_trace_with_respect_to_the_weights(name):
    posterior, task = make(name)
    x = data(task, 2)[1]
    parameters = list(posterior.parameters())

    def gradient(seed):
        value = fisher_trace(posterior, x, 8000, stream(seed), attached=True).mean()
        return torch.autograd.grad(value, parameters, materialize_grads=True)

    norm = torch.cat([g.flatten() for g in gradient(1)]).norm()
    direction = [g / norm for g in gradient(1)]  # about the steepest one
    slope = sum((g * d).sum() for g, d in zip(gradient(0), direction, strict=True))

    def moved(step):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(step * d)
            result = trace(exact_information(posterior, x)).mean()
            for p, d in zip(parameters, direction, strict=True):
                p.sub_(step * d)
        return result

    numeric = (moved(0.01) - moved(-0.01)) / 0.02  # wide, for ReLUs make the score jump
    torch.testing.assert_close(slope, numeric, rtol=0.1, atol=0)


def test_gradients_without_reparameterised_samples_are_refused(name):
    posterior, task = make(name)
    x = data(task, 3)[1]
    if name in SMOOTH:
        assert scores(posterior, x, 2, stream(0), attached=True).requires_grad
    else:
        with pytest.raises(ConfigError, match=r"attached=True .* no reparameterised samples"):
            fisher_trace(posterior, x, 2, stream(0), attached=True)


def test_an_estimator_whose_head_has_no_reparameterised_samples():
    class Head(nn.Module):
        def __init__(self, dim_theta, dim_context):
            super().__init__()
            self.net = DiagonalGaussian(dim_theta, dim_context, hidden=[8])

        def forward(self, context):
            return EvenMixture([self.net(context), self.net(-context)])

    with draws_from(stream(0)):
        posterior = Estimator(Head, Identity, 2, 2, prior("real").support).double()
    x = data(Vector(), 3)[1]
    information = fisher_information(posterior, x, 20_000, stream(0))
    expected = exact_information(posterior, x)
    largest = float(expected.abs().amax())
    torch.testing.assert_close(information, expected, rtol=0, atol=0.06 * largest)
    with pytest.raises(ConfigError, match="EvenMixture"):
        fisher_trace(posterior, x, 2, stream(0), attached=True)
    assert (
        PGD(KLReverse(), 2)(posterior, x, ball=make_ball("l2", 1.0), generator=stream(0)).shape
        == x.shape
    )


# Attacks.


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_attacks(name, objective):
    posterior, task = make(name)
    theta, x = data(task, 12)
    ball = make_ball("l2", 0.7)
    value = {}
    for attack in (PGD(OBJECTIVES[objective](), steps=40), FGSM(OBJECTIVES[objective]()), Noise()):
        found = attack.search(posterior, x, theta, ball, stream(0))
        again = attack(posterior, x, theta, ball=ball, generator=stream(0))
        assert torch.equal(found.x_adv, again)
        assert (ball.norm(found.x_adv - x) <= ball.radius + 1e-9).all()
        if attack.name != "noise":
            assert (found.zero_gradients == 0).all()
        moved, still = (
            exact_value(objective, posterior, x, v, theta).mean() for v in (found.x_adv, x)
        )
        value[attack.name] = moved - still
    assert value["pgd"] > 1.2 * value["noise"]
    assert value["pgd"] > 0.9 * value["fgsm"] > 0  # one start of PGD may miss the highest hill


@pytest.mark.parametrize("objective", [KLForward(), KLReverse(), NegativeLogLikelihood()])
def test_a_distribution_for_each_coordinate_is_refused(objective):
    def forgot_independent(x):
        return Normal(x, torch.ones_like(x))

    x, ball = torch.zeros(3, 2), make_ball("l2", 1.0)
    with pytest.raises(ConfigError, match=r"batch.shape"):
        PGD(objective)(forgot_independent, x, torch.zeros(3, 2), ball=ball, generator=stream(0))


# Metrics.


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
    expected = above + 0.5 * ties * isinstance(q, Categorical)
    assert (levels["hpd_level"] - expected).abs().max() < 4.5 * 0.5 / 400**0.5


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
    theta, x = data(task, 1500, torch.float32)
    c = Context(task, exact, theta, x, x, False, 0, 512)
    _, got = measure(Coverage(100), c)
    (area,) = [r["value"] for r in got["coverage"].rows if r["statistic"] == "signed_area"]
    assert abs(area) < 0.03
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
