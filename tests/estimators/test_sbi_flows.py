"""The architectures are sbi's: shapes of all weights as sbi 0.27 builds them for D = 3, Dx = 4."""

from collections import Counter

import pytest
import torch

from robust_npe.estimators import SbiMAF, SbiNSF
from robust_npe.random import draws_from, stream

SHAPES = {
    SbiMAF: {(50, 3): 5, (50,): 20, (50, 4): 5, (50, 50): 10, (6, 50): 5, (6,): 5},
    SbiNSF: {
        (50, 5): 3,
        (50,): 35,
        (50, 4): 10,
        (50, 50): 20,
        (58, 50): 3,
        (58,): 3,
        (3,): 20,
        (50, 6): 2,
        (29, 50): 2,
        (29,): 2,
    },
}


def make(head, dim=3):
    with draws_from(stream(0, "weights")):
        return head(dim, 4)


@pytest.mark.parametrize("head", SHAPES)
def test_shapes_are_those_of_sbi(head):
    assert Counter(tuple(p.shape) for p in make(head).parameters()) == SHAPES[head]


@pytest.mark.parametrize("head", SHAPES)
def test_every_parameter_depends_on_the_observation(head):
    flow = make(head).double()
    context = torch.randn(1, 4, generator=stream(1)).double()
    with draws_from(stream(2)):
        z = torch.randn(50, 1, 3).double()
    moved = []
    for shift in (0.0, 1.0):
        theta, _ = flow.transform.inverse(z.squeeze(1), (context + shift).expand(50, -1))
        moved.append(theta)
    assert ((moved[1] - moved[0]).abs().amax(0) > 1e-6).all()
