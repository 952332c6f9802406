import torch
from torch.distributions.constraints import real_vector

from robust_npe.estimators import DiagonalGaussian, Estimator, Identity
from robust_npe.random import draws_from, stream
from robust_npe.training.average import WeightAverage


def make_estimator():
    with draws_from(stream(0)):
        return Estimator(DiagonalGaussian, Identity, 2, 3, real_vector)


def set_all(estimator, value):
    with torch.no_grad():
        for p in estimator.parameters():
            p.fill_(value)


def test_average_starts_fast_and_then_follows_the_decay():
    estimator = make_estimator()
    set_all(estimator, 0.0)
    average = WeightAverage(estimator, decay=0.15)
    set_all(estimator, 1.0)
    expected = 0.0
    for decay in (0.1, 0.15, 0.15):
        average.update()
        expected = decay * expected + (1 - decay)
        for p in average.estimator.parameters():
            torch.testing.assert_close(p, torch.full_like(p, expected))
    assert all((p == 1).all() for p in estimator.parameters())


def test_no_average():
    estimator = make_estimator()
    average = WeightAverage(estimator, decay=None)
    average.update()
    assert average.estimator is estimator
