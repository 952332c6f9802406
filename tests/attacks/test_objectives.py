from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal

from robust_npe.attacks import KLForward, KLReverse, NegativeLogLikelihood
from robust_npe.estimators import MAF
from robust_npe.random import stream
from tests.helpers import NoClosedForm, gaussian_kl, make_estimator, observations, prior_draws

KLS = {"kl_forward": KLForward, "kl_reverse": KLReverse}


def posterior(x):
    """Mean and spread depend on x, so that both directions of the divergence differ."""
    std = torch.diag_embed((0.5 * x[..., :2]).exp())
    return MultivariateNormal(x @ x.new_tensor([[1.0, 0.5], [0.0, 1.0], [-1.0, 2.0]]), std)


def hidden(x):
    return NoClosedForm(posterior(x))


@pytest.fixture
def x():
    return torch.randn(4, 3, generator=stream(0), dtype=torch.float64)


@pytest.fixture
def x_adv(x):
    return x + 0.4 * torch.randn(4, 3, generator=stream(1), dtype=torch.float64)


def expected(name, x, x_adv):
    p, q = posterior(x), posterior(x_adv)
    return gaussian_kl(p, q) if name == "kl_forward" else gaussian_kl(q, p)


@pytest.mark.parametrize("name", KLS)
def test_direction_in_closed_form(name, x, x_adv):
    objective = KLS[name](1)
    assert objective.name == name
    values = objective(posterior, x, None, stream(0))(x_adv)
    torch.testing.assert_close(values, expected(name, x, x_adv))
    assert ((expected("kl_forward", x, x_adv) / expected("kl_reverse", x, x_adv)) != 1).all()


@pytest.mark.parametrize("name", KLS)
def test_direction_from_samples(name, x, x_adv):
    values = KLS[name](40_000)(hidden, x, None, stream(0))(x_adv)
    torch.testing.assert_close(values, expected(name, x, x_adv), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("name", KLS)
def test_random_numbers_are_common_within_a_binding_and_fresh_between(name, x, x_adv):
    generator = stream(0)
    first, second = (KLS[name](3)(hidden, x, None, generator) for _ in range(2))
    assert torch.equal(first(x_adv), first(x_adv))
    assert not torch.equal(first(x_adv), second(x_adv))
    again = KLS[name](3)(hidden, x, None, stream(0))
    assert torch.equal(first(x_adv), again(x_adv))


@pytest.mark.parametrize("name", KLS)
def test_zero_at_the_clean_observation(name, x):
    for q in (posterior, hidden):
        climb = KLS[name](5)(q, x, None, stream(0))
        torch.testing.assert_close(climb(x), torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("q", [posterior, hidden])
@pytest.mark.parametrize("name", [*KLS, "nll"])
def test_gradients_against_finite_differences(name, q, x, x_adv):
    theta = torch.randn(4, 2, generator=stream(2), dtype=torch.float64)
    objective = NegativeLogLikelihood() if name == "nll" else KLS[name](4)
    climb = objective(q, x, theta, stream(0))
    x_adv.requires_grad_(True)
    (gradient,) = torch.autograd.grad(climb(x_adv).sum(), x_adv)
    step = 1e-6 * torch.eye(3, dtype=torch.float64)
    with torch.no_grad():
        numeric = [(climb(x_adv + s) - climb(x_adv - s)) / 2e-6 for s in step]
    torch.testing.assert_close(gradient, torch.stack(numeric, -1), rtol=1e-5, atol=1e-7)


def test_nll_is_that_of_theta_under_the_attacked_posterior(x, x_adv):
    theta = torch.randn(4, 2, generator=stream(2), dtype=torch.float64)
    q = posterior(x_adv)
    quadratic = ((theta - q.mean) ** 2 / q.variance).sum(-1)
    constant = 2 * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64))
    by_hand = 0.5 * (quadratic + torch.log(q.variance).sum(-1) + constant)
    values = NegativeLogLikelihood()(posterior, x, theta, stream(0))(x_adv)
    torch.testing.assert_close(values, by_hand)


def test_nll_without_theta_is_refused(x):
    with pytest.raises(ValueError, match="theta"):
        NegativeLogLikelihood()(posterior, x, None, stream(0))


@pytest.mark.parametrize("name", KLS)
def test_number_of_samples_is_checked(name):
    with pytest.raises(ValueError, match="num_samples"):
        KLS[name](0)


@pytest.mark.parametrize("name", KLS)
def test_estimators_in_theta_space_with_bounds(name):
    # the bijection cancels: the same value from samples in theta space
    estimator = make_estimator(MAF, "box", gain=1.5)
    x, x_adv = observations(3), observations(3, seed=1)
    p, q = estimator(x), estimator(x_adv)
    if name == "kl_reverse":
        p, q = q, p
    climb = KLS[name](4000)(estimator, x, None, stream(0))
    with torch.no_grad():
        terms = []
        for seed in range(2):
            theta = prior_draws(4000, "box", seed=seed).unsqueeze(1).expand(-1, 3, -1)
            weight = p.log_prob(theta).exp() * 25  # uniform prior of density 1/25
            terms.append(weight * (p.log_prob(theta) - q.log_prob(theta)))
        reference = torch.cat(terms)
        error = reference.std(0) / len(reference) ** 0.5
        assert ((climb(x_adv) - reference.mean(0)).abs() < 6 * error).all()


@pytest.mark.parametrize("name", KLS)
def test_steps_use_fresh_samples_of_the_same_quantity(name, x, x_adv):
    objective = KLForward(5, pool=2000) if name == "kl_forward" else KLReverse(5)
    climb = objective(hidden, x, None, stream(0))
    steps = torch.stack([climb.step(x_adv) for _ in range(400)])
    assert not torch.equal(steps[0], steps[1])
    error = steps.std(0) / len(steps) ** 0.5
    assert ((steps.mean(0) - expected(name, x, x_adv)).abs() < 4.5 * error).all()
    if name == "kl_forward":  # begins the pool again
        assert torch.equal(climb.step(x_adv), steps[0])
