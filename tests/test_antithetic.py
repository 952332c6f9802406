from __future__ import annotations

import pytest
import torch

from robust_npe.antithetic import antithetic
from robust_npe.divergences import kl
from robust_npe.estimators import (
    MAF,
    NSF,
    DiagonalGaussian,
    MixtureDensityNetwork,
    NflowsMAF,
    NflowsNSF,
)
from robust_npe.random import draws_from, stream
from tests.helpers import make_estimator, observations

PAIRING = [MAF, NSF, NflowsMAF, NflowsNSF, MixtureDensityNetwork]


@pytest.fixture(params=PAIRING, ids=lambda head: head.__name__)
def head(request):
    return request.param


@pytest.fixture
def q(head):
    with torch.no_grad():
        # random splines are far from linear, so that little would cancel within pairs
        return make_estimator(head, gain=0.7 if head is NSF else 1.0)(observations(3))


def test_each_sample_follows_the_distribution_and_pairs_oppose_each_other(q):
    with draws_from(stream(0)):
        pairs = antithetic(q).sample((20_000,)).unflatten(0, (-1, 2))
        independent = q.sample((20_000,))
    std = independent.std(0)
    for member in pairs.unbind(1):
        assert ((member.mean(0) - independent.mean(0)) / std).abs().max() < 0.06
        assert (member.std(0) / std - 1).abs().max() < 0.06
    a, b = ((pairs - independent.mean(0)) / std).unbind(1)
    # a mixture opposes inside of a component only
    assert ((a * b).mean(0) < -0.3).all()


def test_log_density_belongs_to_the_samples(q):
    with draws_from(stream(0)):
        theta, log_prob = antithetic(q).sample_and_log_prob((6,))
    torch.testing.assert_close(log_prob, q.log_prob(theta), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("count", [(), (1,), (3,), (3, 2)], ids=str)
def test_any_number_of_samples(q, count):
    pairs = antithetic(q)
    with draws_from(stream(0)):
        for draw in (pairs.sample, pairs.rsample):
            assert draw(count).shape == (*count, *q.batch_shape, *q.event_shape)


def test_the_divergence_of_a_shift_is_the_same_with_a_smaller_error(q):
    class Plain:
        """Hides that q offers pairs."""

        has_rsample = True
        rsample, log_prob = q.rsample, q.log_prob

    class Moved:
        """q, moved a little."""

        def log_prob(self, theta):
            return q.log_prob(theta - 0.2)

    moved = Moved()
    with torch.no_grad():
        plain, pairs = (
            torch.stack([kl(p, moved, 2, stream(i)) for i in range(300)]) for p in (Plain, q)
        )
    error = plain.std(0) / len(plain) ** 0.5
    assert ((plain.mean(0) - pairs.mean(0)).abs() < 6 * error).all()
    assert (pairs.std(0) < 0.9 * plain.std(0)).all()


def test_a_distribution_without_pairs_is_left_alone():
    q = make_estimator(DiagonalGaussian)(observations(2)).base
    assert antithetic(q) is q
