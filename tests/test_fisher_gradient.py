"""The penalty's gradient is that of the expected trace.

Finite differences with common random numbers agree with a pathwise gradient even where that is
wrong: jumps of the score at kinks, which move with the weights, are missing in both. So here the
two sides of a difference have independent random numbers.
"""

from functools import partial

import pytest
import torch
from torch.distributions.constraints import real_vector

from robust_npe.defenses import NoDefense
from robust_npe.estimators import MAF, Estimator, Identity
from robust_npe.fisher import fisher_trace
from robust_npe.random import draws_from, stream
from robust_npe.training import TrainingSettings, train

ROUNDS, GRADIENTS = 100, 25  # over all observations


def pairs(count, seed):
    generator = stream(seed, "pairs")
    theta = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    a, b = theta.unbind(-1)
    mean = torch.stack((a * b + a, torch.sin(2 * a) + b.square(), a - b), -1)
    return theta, mean + 0.3 * torch.randn(mean.shape, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def trained():
    head = partial(MAF, transforms=2, hidden=(24, 24))
    with draws_from(stream(0, "weights")):
        estimator = Estimator(head, Identity, 2, 3, real_vector).double()
    settings = TrainingSettings(batch_size=100, max_epochs=12)
    train(estimator, NoDefense(), pairs(4000, 0), pairs(500, 1), settings, stream(0, "train"))
    return estimator


def gradient(estimator, x, seed):
    trace = fisher_trace(estimator, x, 1, stream(seed, "gradient")).mean()
    gradients = torch.autograd.grad(trace, list(estimator.parameters()))
    return torch.cat([g.flatten() for g in gradients])


@torch.no_grad()
def mean_trace(estimator, x, step, name):
    """Mean and standard error at weights that are moved by a step."""
    parameters = list(estimator.parameters())
    parts = step.split([p.numel() for p in parameters])
    for sign in (1, -1):
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.add_(sign * part.view_as(parameter))
        if sign == 1:
            streams = (stream(k, "difference", name) for k in range(ROUNDS))
            traces = [fisher_trace(estimator, x, 1, s, attached=False).mean() for s in streams]
    traces = torch.stack(traces)
    return traces.mean(), traces.std() / ROUNDS**0.5


def test_the_gradient_is_that_of_the_expected_trace(trained):
    assert trained.score_method == "compiled"
    _, x = pairs(4000, 2)
    direction = sum(gradient(trained, x, k) for k in range(5))
    direction /= direction.norm()
    slopes = torch.stack([gradient(trained, x, 5 + k) @ direction for k in range(GRADIENTS)])
    trace, _ = mean_trace(trained, x, 0 * direction, "size")
    width = 0.1 * trace / slopes.mean()  # the trace changes by a tenth
    (upper, upper_error), (lower, lower_error) = (
        mean_trace(trained, x, sign * width * direction, sign) for sign in (1, -1)
    )
    slope = (upper - lower) / (2 * width)
    error = torch.hypot(upper_error, lower_error) / (2 * width)
    error = torch.hypot(error, slopes.std() / GRADIENTS**0.5)
    assert error < 0.015 * slope  # a gradient that is 5 % short would be noticed
    assert (slopes.mean() - slope).abs() < 3 * error
