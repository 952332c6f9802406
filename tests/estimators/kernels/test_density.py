"""The compiled densities and samples of flows against those of torch."""

import pytest
import torch

from robust_npe.estimators import MAF
from robust_npe.estimators import autoregressive as flows
from robust_npe.estimators.kernels import density_kernels
from robust_npe.estimators.kernels.density_kernels import TILE
from robust_npe.random import draws_from, stream
from tests.estimators.kernels.test_sampled_score import SETTINGS, each_head
from tests.helpers import connect_directly

SHAPES = [(1, 2 * TILE + 7), (TILE + 9, 1), (40, 29)]  # observations and samples


@pytest.fixture
def compiled(monkeypatch):
    """Choose between both ways."""
    return lambda chosen: monkeypatch.setattr(flows, "MIN_COMPILED", 1 if chosen else 10**9)


def make(dim, dim_x, transforms, passes, hidden, head=MAF):
    with draws_from(stream(0, "weights")):
        flow = head(dim, dim_x, transforms=transforms, hidden=hidden, passes=passes).double()
    with torch.no_grad():
        for parameter in connect_directly(flow).parameters():  # farther from the identity
            parameter.mul_(1.5)
    return flow


def randn(*shape):
    with draws_from(stream(1, *shape)):
        return torch.randn(shape, dtype=torch.float64)


def densities(flow, x, theta, trained, create_graph):
    """Density, its gradients for one weight per sample, and (with a graph) those of these; those of
    the weights only if they are trained."""
    x, theta = x.clone().requires_grad_(), theta.clone().requires_grad_()
    inputs = x, theta, *(flow.requires_grad_(trained).parameters() if trained else ())
    value = flow(x).log_prob(theta)
    weights = randn(*value.shape)
    first = torch.autograd.grad(value, inputs, weights, create_graph=create_graph)
    if not create_graph:
        return value, *first
    norm = sum(gradient.square().sum() for gradient in first)
    return value, *first, *torch.autograd.grad(norm, inputs)


@each_head
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("settings", SETTINGS)
def test_densities_and_gradients_are_those_of_torch(
    settings, shape, create_graph, trained, head, compiled
):
    flow, (batch, count) = make(*settings, head=head), shape
    x, theta = randn(batch, settings[1]), 2 * randn(count, batch, settings[0])
    compiled(False)
    expected = densities(flow, x, theta, trained, create_graph)
    compiled(True)
    found = densities(flow, x, theta, trained, create_graph)
    assert "Density" in str(flow(x.requires_grad_()).log_prob(theta).grad_fn.next_functions)
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-8)


@each_head
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("settings", SETTINGS)
@torch.no_grad()
def test_samples_are_those_of_torch_and_have_the_density_that_they_come_with(
    settings, shape, head, compiled
):
    flow, (batch, count) = make(*settings, head=head), shape
    q = flow(randn(batch, settings[1]))
    compiled(True)
    with draws_from(stream(2, "theta")):
        theta, log_prob = q.rsample_and_log_prob((count,))
    compiled(False)
    with draws_from(stream(2, "theta")):
        torch.testing.assert_close(theta, q.rsample((count,)), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(log_prob, q.log_prob(theta), rtol=1e-9, atol=1e-9)


def test_where_one_depends_on_the_other_second_derivatives_count_both_paths(compiled):
    flow, context = make(*SETTINGS[1]).requires_grad_(False), randn(6, 5)

    def slope(x):
        theta = x[:, :2].sin()  # theta and the context terms both come from x
        return torch.autograd.grad(flow(x).log_prob(theta).sum(), x, create_graph=True)[0]

    compiled(True)
    assert torch.autograd.gradcheck(slope, context.requires_grad_(), eps=1e-7, atol=1e-5)


@each_head
def test_missing_numbers_stay_where_they_are(head, compiled):
    flow, theta = make(*SETTINGS[1], head=head), randn(4, 6, 2)
    theta[1, 2] = torch.nan
    theta[3, 5] = torch.inf
    compiled(True)
    value = flow(randn(6, 5)).log_prob(theta)
    assert value[1, 2].isnan()
    assert not value[3, 5].isfinite()
    assert int((~value.isfinite()).sum()) == 2


@pytest.mark.parametrize("case", ["few", "threads"])
def test_torch_does_what_kernels_should_not(case, monkeypatch):
    q = make(*SETTINGS[1])(randn(64, 5))
    if case == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert not q._fits_kernels(flows.MIN_COMPILED - (case == "few"))
    assert q._fits_kernels(flows.MIN_COMPILED) == (case != "threads")


@pytest.mark.parametrize(
    ("graded", "trained", "expected"), [(0, 1, (0, 0)), (1, 0, (1, 0)), (1, 1, (1, 1))]
)
def test_only_gradients_that_somebody_can_ask_for_are_computed(
    graded, trained, expected, compiled, monkeypatch
):
    compiled(True)
    flow, x, asked = make(*SETTINGS[1]).requires_grad_(bool(trained)), randn(8, 5), []
    real = density_kernels.densities
    monkeypatch.setattr(
        density_kernels, "densities", lambda *a: (asked.append(a[-2:]), real(*a))[1]
    )
    with torch.set_grad_enabled(bool(graded)):
        flow(x.requires_grad_()).log_prob(randn(3, 8, SETTINGS[1][0]))
    assert asked == [tuple(map(bool, expected))]
