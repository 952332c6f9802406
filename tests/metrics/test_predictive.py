from __future__ import annotations

import math

import pytest
import torch

from robust_npe.metrics import Context, Predictive
from tests.helpers import Exact, linear_task, pairs


def measure(task, estimator, move=0.0, num=30, **settings):
    theta, x = pairs(linear_task(task.slopes.tolist(), task.noise_std), 60)
    c = Context(task, estimator, theta, x, x + move, bool(move), 0, 16)
    found = {m.metric: m.per_observation for m in Predictive(num, **settings)(c)}
    assert all(v.shape == (num,) for v in found.values())
    return found


def test_noise_alone_for_an_exact_posterior():
    # many dimensions with strong data: both sides differ by noise, sqrt(2) noise norms
    task = linear_task((20.0,) * 30, 0.3)
    found = measure(task, Exact(task))
    assert set(found) == {"predictive"}
    assert float(found["predictive"].mean()) == pytest.approx(2**0.5, rel=0.05)


def test_attacked_x_and_clean_x_are_told_apart():
    task = linear_task((5.0, 5.0), 0.1)
    found = measure(task, Exact(task), move=1.0)
    # the posterior follows x~, which is sqrt(2) from x
    assert float(found["predictive"].median()) < 3
    expected = 2**0.5 / task.noise_norm
    assert float(found["predictive_clean"].median()) == pytest.approx(expected, rel=0.1)


def test_wrong_posterior_is_far_away():
    task = linear_task((5.0, 5.0), 0.1)
    far = measure(task, Exact(task, shift=2.0))["predictive"]
    assert float(far.median()) == pytest.approx(10 * 2**0.5 / task.noise_norm, rel=0.1)


def test_failed_simulations_are_left_out():
    task = linear_task()
    whole = task.simulate

    def failing(theta, generator):
        x = whole(theta, generator)
        x[:30] = torch.nan  # the first of the samples of each observation
        x[30:60:30] = math.inf
        return x

    task.simulate = failing
    assert measure(task, Exact(task))["predictive"].isfinite().all()

    def mostly_failing(theta, generator):
        x = whole(theta, generator)
        x[: 26 * 30] = torch.nan  # 26 of 50 for each observation
        return x

    task.simulate = mostly_failing
    assert measure(task, Exact(task))["predictive"].isnan().all()
    task.simulate = lambda theta, generator: torch.full_like(theta, torch.nan)
    assert measure(task, Exact(task))["predictive"].isnan().all()


@pytest.mark.parametrize("name", ["num_observations", "num_samples"])
def test_settings_are_checked(name):
    with pytest.raises(ValueError, match=name):
        Predictive(**{name: 0})
