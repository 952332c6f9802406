from __future__ import annotations

import pytest
import torch

from robust_npe.estimators import MAF
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
