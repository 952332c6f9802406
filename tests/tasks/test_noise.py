import math

import pytest
import torch
from torch.distributions import LogNormal, Normal

from robust_npe.random import stream
from robust_npe.tasks.noise import (
    gaussian_norm,
    log_normal,
    lognormal_log_prob,
    normal_log_prob,
)


def test_gaussian_norm_is_the_mean_norm():
    noise = 0.3 * torch.randn(20_000, 7, generator=stream(0))
    assert gaussian_norm(0.3, 7) == pytest.approx(float(noise.norm(dim=1).mean()), rel=0.01)


def test_densities_agree_with_torch():
    mean = torch.randn(5, 1, 3, generator=stream(0), dtype=torch.float64)
    x = torch.rand(4, 3, generator=stream(1), dtype=torch.float64) + 0.1
    torch.testing.assert_close(normal_log_prob(x, mean, 0.2), Normal(mean, 0.2).log_prob(x).sum(-1))
    torch.testing.assert_close(
        lognormal_log_prob(x, mean, 0.2), LogNormal(mean, 0.2).log_prob(x).sum(-1)
    )


def test_outside_the_support_and_after_a_failure_the_density_is_zero():
    x = torch.tensor([[1.0, 2.0], [0.0, 1.0], [-1.0, 1.0]])
    assert (
        torch.isfinite(lognormal_log_prob(x, torch.zeros(2), 1.0)).tolist() == [True] + [False] * 2
    )
    mean = torch.tensor([0.0, math.nan])
    assert normal_log_prob(x, mean, 1.0).tolist() == [-math.inf] * 3


def test_log_normal_moments():
    draws = log_normal(torch.full((50_000,), 0.5), 0.2, stream(0)).log()
    assert float(draws.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(draws.std()) == pytest.approx(0.2, rel=0.02)
