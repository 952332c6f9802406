"""The continuous flow of flow matching: its network, its solver, and derivatives through it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from robust_npe.antithetic import antithetic
from robust_npe.estimators import Estimator, Identity
from robust_npe.fisher import fisher_trace
from robust_npe.random import draws_from, stream
from tests.estimators.common import make_flow_matching, normal
from tests.helpers import linear_task

# The network.


def test_divergence_is_the_trace_of_the_jacobian():
    field, z, context = make_flow_matching(4).field, normal(5, 4), normal(5, 3, seed=1)
    features, time = field.of_context(context), field.of_time(torch.tensor(0.3).double())
    value, divergence = field.with_divergence(z, features, time)
    torch.testing.assert_close(value, field(z, features, time))
    jacobian = torch.autograd.functional.jacobian(lambda z: field(z, features, time).sum(0), z)
    torch.testing.assert_close(divergence, jacobian.diagonal(dim1=0, dim2=2).sum(-1))


# The solver.


def test_against_an_adaptive_solver_of_the_velocity():
    head, context = make_flow_matching(), normal(1, 3)

    def rates(t, state):
        theta, t = torch.from_numpy(state[:2]), torch.tensor([t]).double()
        jacobian = torch.autograd.functional.jacobian(
            lambda theta: head.velocity(theta[None], t, context)[0], theta
        )
        velocity = head.velocity(theta[None], t, context)[0].tolist()
        return [*velocity, float(jacobian.trace())]

    z = normal(1, 2, seed=1)
    tight = {"rtol": 1e-9, "atol": 1e-9, "method": "DOP853"}
    end = solve_ivp(rates, (0, 1), [*z[0].tolist(), 0.0], **tight).y[:, -1]
    theta = torch.from_numpy(end[None, :2])
    base = -0.5 * float(z.square().sum()) - math.log(2 * math.pi)
    assert float(head(context).log_prob(theta).detach()) == pytest.approx(base - end[2], abs=1e-4)
    assert float((theta[0] - z[0]).norm()) > 0.3  # there was something to solve


def test_order_of_the_solver():
    errors = []
    theta, context = normal(20, 2), normal(20, 3, seed=1)
    with torch.no_grad():
        exact = make_flow_matching(steps=320)(context).log_prob(theta)
        for steps in (10, 20, 40):
            errors.append(
                float((make_flow_matching(steps=steps)(context).log_prob(theta) - exact).norm())
            )
    orders = -np.diff(np.log2(errors))
    assert (orders > 3.3).all()
    assert errors[1] < 1e-3


def test_one_dimensional_density_integrates_to_one():
    head, grid = make_flow_matching(1), torch.linspace(-15, 15, 6001, dtype=torch.float64)
    with torch.no_grad():
        density = head(normal(1, 3)).log_prob(grid.view(-1, 1, 1)).squeeze(1).exp()
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=1e-5)


def test_many_rows_have_the_same_values_and_gradients(monkeypatch):
    theta, context = normal(6, 5, 2), normal(5, 3, seed=1)

    def gradients():
        head, x = make_flow_matching(steps=3), context.clone().requires_grad_(True)
        value = head(x).log_prob(theta)
        (score,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        return value, score, *torch.autograd.grad(score.square().sum(), list(head.parameters())[:3])

    whole = gradients()
    monkeypatch.setattr("robust_npe.estimators.continuous.MAX_ROWS", 10)
    for a, b in zip(whole, gradients(), strict=True):
        torch.testing.assert_close(a, b)


def test_antithetic_samples_come_from_opposite_noise():
    head = make_flow_matching()
    with torch.no_grad():
        for parameter in head.field.last.parameters():
            parameter.zero_()  # F = 0 leaves N(0, I)
    with draws_from(stream(0)):
        theta = antithetic(head(normal(3, 3))).sample((4,))
    torch.testing.assert_close(theta[::2], -theta[1::2])
    assert float(theta.abs().min()) > 0


# Derivatives of the density.


def test_gradients_against_finite_differences():
    head, theta, context = make_flow_matching(), normal(4, 2), normal(4, 3, seed=1)
    theta.requires_grad_(True)
    context.requires_grad_(True)
    found = torch.autograd.grad(head(context).log_prob(theta).sum(), (theta, context))
    with torch.no_grad():
        for i, gradient in enumerate(found):
            for k in range(gradient.shape[-1]):
                values = []
                for sign in (1, -1):
                    moved = [theta.clone(), context.clone()]
                    moved[i][:, k] += sign * 1e-5
                    values.append(head(moved[1]).log_prob(moved[0]))
                numeric = (values[0] - values[1]) / 2e-5
                torch.testing.assert_close(gradient[:, k], numeric, rtol=1e-6, atol=1e-7)


def test_gradient_of_the_trace_of_the_information():
    with draws_from(stream(0)):
        estimator = Estimator(
            lambda d, c: make_flow_matching(), Identity, 2, 3, linear_task().support
        )
    estimator = estimator.double()
    x = normal(2, 3)
    parameters = [estimator.head.field.second.weight, estimator.head.field.context[0].weight]

    def trace():
        return fisher_trace(estimator, x, 3, stream(1), attached=True).mean()

    gradients = torch.autograd.grad(trace(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = gradient / gradient.norm()
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter.add_(step * direction)
            values.append(float(trace().detach()))
            with torch.no_grad():
                parameter.sub_(step * direction)
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(gradient.norm()), rel=1e-4)
