"""One contract for posteriors of any kind: attacks, divergences, Fisher information and metrics."""

from __future__ import annotations

import pytest
import torch

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
from robust_npe.estimators import DiagonalGaussian, Estimator, Head, Identity
from robust_npe.fisher import fisher_eigenvalue, fisher_information, fisher_trace, scores
from robust_npe.random import draws_from, stream
from tests.helpers import prior
from tests.posteriors import (
    POSTERIORS,
    SMOOTH,
    PlainMixture,
    Vector,
    data,
    differences,
    exact_information,
    exact_kl,
    exact_value,
    make,
    trace,
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
    class TwoGaussians(Head):
        name = "two_gaussians"

        def __init__(self, dim_theta, dim_context):
            super().__init__()
            self.net = DiagonalGaussian(dim_theta, dim_context, hidden=[8])

        def forward(self, context):
            return PlainMixture([self.net(context), self.net(-context)])

    with draws_from(stream(0)):
        posterior = Estimator(TwoGaussians, Identity, 2, 2, prior("real").support).double()
    x = data(Vector(), 3)[1]
    information = fisher_information(posterior, x, 20_000, stream(0))
    expected = exact_information(posterior, x)
    largest = float(expected.abs().amax())
    torch.testing.assert_close(information, expected, rtol=0, atol=0.06 * largest)
    with pytest.raises(ConfigError, match="PlainMixture"):
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


# What is no posterior, ignores x, or has a bounded support.
