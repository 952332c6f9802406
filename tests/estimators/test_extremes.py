"""Gaussian heads where training or an attack drives them to extremes."""

from __future__ import annotations

import pytest
import torch

from robust_npe.divergences import kl
from robust_npe.estimators import DiagonalGaussian, FullGaussian, GaussianMixture
from robust_npe.random import draws_from, stream


@pytest.mark.parametrize("head", [DiagonalGaussian, FullGaussian])
def test_widths_stay_numbers_far_outside_of_the_data(head):
    with draws_from(stream(0)):
        net = head(2, 3)
        near, far = torch.randn(20, 3), 1e8 * torch.randn(20, 3)
    with torch.no_grad():
        p, q = net(near), net(far)
        assert q.log_prob(torch.zeros(20, 2)).isfinite().all()
        assert not kl(p, q, 1, stream(0)).isnan().any()
        assert q.variance.isfinite().all()


@pytest.mark.parametrize("distance", [1e3, 1e8, 1e15])
def test_densities_of_mixtures_are_right_far_away(distance):
    q = GaussianMixture(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1))
    log_prob = float(q.log_prob(torch.tensor([distance])))
    assert log_prob == pytest.approx(-0.5 * distance**2, rel=1e-5)
