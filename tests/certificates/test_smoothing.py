"""The smoothed posterior of a linear-Gaussian one is known: N(A x, C + s^2 A A^T)."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch.distributions import MultivariateNormal

from robust_npe.attacks import make_ball
from robust_npe.certificates.region import Region
from robust_npe.certificates.smoothing import smoothed_kl
from robust_npe.random import stream
from tests.helpers import gaussian_kl

NORMS = ("l1", "l2", "linf")
DIM_X, ROWS = 3, 40


def smoothed(x, matrix, width, sigma):
    spread = matrix * sigma
    covariance = width**2 * torch.eye(len(matrix)).to(x) + spread @ spread.T
    return MultivariateNormal(x @ matrix.T, covariance)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("sigma", [0.3, torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64)])
@pytest.mark.parametrize("domain", [None, (torch.full((DIM_X,), -1.0), torch.full((DIM_X,), 1.0))])
def test_bound_is_never_exceeded_and_reached_by_a_narrow_posterior(norm, sigma, domain):
    generator = stream(0, "smoothing")
    x = torch.randn(ROWS, DIM_X, generator=generator).double()
    radius = torch.rand(ROWS, generator=generator)
    ball = make_ball(norm, radius, torch.tensor([1.0, 0.5, 2.0]), domain)
    bound = smoothed_kl(Region.of(ball, x), sigma)
    axes = torch.cat([torch.eye(DIM_X), -torch.eye(DIM_X)])
    corners = torch.tensor(list(product((-1.0, 1.0), repeat=DIM_X)))
    unit = (corners if norm == "linf" else axes).double()
    random = [ball.feasible(x, x + ball.sample(x, generator)) for _ in range(300)]
    extreme = [ball.feasible(x, x + u * radius.unsqueeze(1) * ball.scale) for u in unit]
    for matrix in (torch.eye(DIM_X), torch.randn(2, DIM_X, generator=generator)):
        for width in (1.0, 1e-4):
            largest = torch.zeros(ROWS).double()
            q = smoothed(x, matrix.double(), width, sigma)
            for x_adv in random + extreme:
                other = smoothed(x_adv, matrix.double(), width, sigma)
                largest = torch.maximum(largest, gaussian_kl(q, other))
            assert (largest <= bound * (1 + 1e-9)).all()
            if width < 1 and len(matrix) == DIM_X and domain is None:  # nothing is lost
                torch.testing.assert_close(largest, bound, rtol=1e-5, atol=0)


def test_the_published_numbers():
    region = Region.of(make_ball("l2", torch.tensor([0.1, 0.5, 2.0])), torch.zeros(3, 5))
    assert smoothed_kl(region, 0.5).tolist() == pytest.approx([0.02, 0.5, 8])
