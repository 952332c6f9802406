from __future__ import annotations

import pytest
import torch

from robust_npe.estimators import MAF
from robust_npe.estimators.base import Standardize
from robust_npe.random import draws_from, stream
from tests.helpers import SUPPORTS, make_estimator, observations


@pytest.mark.parametrize("support", SUPPORTS)
def test_bounds_follow_the_module(support):
    # to another type here; to another device they go the same way
    single = make_estimator(MAF, support)
    x = observations(4)
    with draws_from(stream(0)):
        theta = single(x).sample((50,))
    expected = single(x).log_prob(theta)
    double = single.double()
    values = double(x.double()).log_prob(theta.double())
    assert values.dtype == torch.float64
    torch.testing.assert_close(values, expected.double(), rtol=1e-4, atol=1e-4)
    for name in ("lower_bound", "upper_bound"):
        bound = getattr(getattr(double.bijection.support, "base_constraint", None), name, None)
        assert not isinstance(bound, torch.Tensor) or bound.dtype == torch.float64


def test_standardization_in_parts_is_that_of_the_whole(monkeypatch):
    x = 3 + 2 * torch.randn(1000, 4, generator=stream(0))
    whole, parts = Standardize(4), Standardize(4)
    whole.fit(x, min_std=0.05)
    monkeypatch.setattr("robust_npe.estimators.base.ROWS", 64)
    parts.fit(x, min_std=0.05)
    torch.testing.assert_close(whole.mean, x.double().mean(0).float())
    torch.testing.assert_close(whole.std, x.double().std(0, correction=0).float())
    torch.testing.assert_close(parts.mean, whole.mean)
    torch.testing.assert_close(parts.std, whole.std)
