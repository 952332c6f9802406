"""The compiled splines against those by torch."""

import subprocess
import sys

import pytest
import torch

from robust_npe.estimators.kernels.spline import CompiledSpline
from robust_npe.estimators.univariate import RationalQuadraticSpline
from robust_npe.random import stream

SPLINE, BY_TORCH = (kind(bins=5, bound=3.0) for kind in (CompiledSpline, RationalQuadraticSpline))


def inputs(dtype=torch.float64, scale=2.0):
    """Elements inside and outside of the interval, with the strides of a network's output."""
    generator = stream(0)
    x = scale * torch.randn(4, 300, generator=generator, dtype=torch.float64)
    raw = 2 * torch.randn(4 * 14, 300, generator=generator, dtype=torch.float64)
    phi = raw.to(dtype).unflatten(0, (4, 14)).transpose(0, 1)
    return x.to(dtype).requires_grad_(), phi.requires_grad_()


def gradients(function, x, phi, create_graph=False):
    y, log_slope = function(x, phi)
    total = (y * torch.arange(300)).sum() + (log_slope * torch.arange(4).unsqueeze(1)).sum()
    return torch.autograd.grad(total, (x, phi), create_graph=create_graph)


@pytest.mark.parametrize("scale", [0.1, 2.0, 20.0])
def test_values_and_gradients(scale):
    x, phi = inputs(scale=scale)
    for own, expected in zip(SPLINE.forward(x, phi), BY_TORCH.forward(x, phi), strict=True):
        torch.testing.assert_close(own, expected)
    own, expected = gradients(SPLINE.forward, x, phi), gradients(BY_TORCH.forward, x, phi)
    for a, b in zip(own, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_gradients_are_those_of_finite_differences():
    x, phi = (tensor.detach()[..., :5].clone().requires_grad_() for tensor in inputs())
    assert torch.autograd.gradcheck(SPLINE.forward, (x, phi))


def test_second_derivatives():
    x, phi = inputs()
    results = []
    for function in (SPLINE.forward, BY_TORCH.forward):
        first = gradients(function, x, phi, create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in first), (x, phi)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-6)


def test_second_derivatives_where_the_parameters_depend_on_x():
    x, phi = inputs()
    results = []
    for function in (SPLINE.forward, BY_TORCH.forward):
        y, log_slope = function(x, phi * x.flip(0).sin())
        total = (y.square() + log_slope).sum()
        (first,) = torch.autograd.grad(total, x, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), (x, phi)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("wanted", [0, 1])
def test_a_gradient_with_respect_to_one_input_only(wanted):
    tensors = list(inputs())
    tensors[1 - wanted] = tensors[1 - wanted].detach()
    for create_graph in (False, True):
        results = [
            torch.autograd.grad(
                f(*tensors)[0].square().sum(), tensors[wanted], create_graph=create_graph
            )
            for f in (SPLINE.forward, BY_TORCH.forward)
        ]
        torch.testing.assert_close(results[0][0], results[1][0])


def test_float32_and_non_contiguous_tensors():
    x, phi = inputs(torch.float32)
    double = gradients(SPLINE.forward, *inputs())
    single = gradients(SPLINE.forward, x, phi)
    for a, b in zip(single, double, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-2)
    flipped = SPLINE.forward(x.flip(0).flip(0).T.contiguous().T, phi)
    assert torch.equal(flipped[0], SPLINE.forward(x, phi)[0])


@torch.no_grad()
def test_inverse():
    y, phi = inputs()
    x, log_slope = SPLINE.inverse(y, phi)
    back, expected = BY_TORCH.forward(x, phi)
    torch.testing.assert_close(back, y)
    torch.testing.assert_close(log_slope, expected)
    torch.testing.assert_close((x, log_slope), BY_TORCH.inverse(y, phi))


def test_non_finite_numbers_are_not_hidden():
    x, phi = (tensor.detach() for tensor in inputs(scale=0.5))
    x[0, 0], phi[3, 1, 1] = torch.nan, torch.nan
    y, log_slope = SPLINE.forward(x, phi)
    assert y[0, 0].isnan()
    assert y[1, 1].isnan()
    assert log_slope[1, 1].isnan()
    assert y[2:].isfinite().all()


def test_importing_the_estimators_does_not_import_numba():
    check = "import sys, robust_npe.estimators; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
