"""What varies in digits that float32 has not is refused, not learned from."""

import logging
from functools import partial

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from robust_npe.checks import ConfigError
from robust_npe.tasks import DataTask, FunctionTask
from robust_npe.tasks.precision import check_resolution

LOST = r"column 2 varies by .* around 1\.7e\+09, which the seven digits of float32 do not"


def rows(offset, num=200):
    x = np.random.default_rng(0).normal(size=(num, 2))
    return x + np.array([0.0, offset])


def test_simulations_far_from_zero():
    theta = rows(0.0)
    with pytest.raises(ConfigError, match=f"task.x: its {LOST}"):
        DataTask(theta, rows(1.7e9))
    with pytest.raises(ConfigError, match=f"task.theta: its {LOST}"):
        DataTask(rows(1.7e9), theta)
    DataTask(theta, rows(1e5))


@pytest.mark.parametrize(
    "x",
    [
        rows(1.7e9).astype(np.float32),  # lost before
        np.full((50, 2), 1.7e9),  # nothing varies
        np.array([[1, 2], [3, np.nan], [np.inf, 4]] * 10),
        np.full((20, 2), np.nan),
        np.zeros((20, 2), dtype=bool),
        1e-300 * rows(0.0),
        1e300 * rows(0.0),
        np.arange(40).reshape(20, 2),
    ],
)
def test_what_loses_nothing_passes(x):
    check_resolution(x, "x")


def test_whole_numbers():
    with pytest.raises(ConfigError, match="column 1 varies by"):
        check_resolution(2**40 + np.arange(20)[:, None], "x")


@pytest.mark.parametrize("array", ["numpy", "auto"])
def test_simulators_far_from_zero(array):
    prior = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    with pytest.raises(ConfigError, match=f"the simulator .* its {LOST}"):
        FunctionTask(
            lambda theta: np.asarray(theta, dtype=np.float64) + np.array([0.0, 1.7e9]),
            prior,
            array=array,
        )


def far(theta, spread):
    """Two features near 1.7e9, half a unit apart, of which the second varies by `spread`."""
    return np.array([1.7e9, 1.7e9 + 0.5 + spread * float(theta[0])])


def test_simulators_of_one_parameter_far_from_zero():
    """What varies from simulation to simulation counts, not from feature to feature."""
    prior = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    theta = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    fine = FunctionTask(partial(far, spread=1e5), prior, vectorized=False, array="numpy")
    assert fine.simulate(theta, torch.Generator()).std(0)[1] > 1e4
    lost = FunctionTask(partial(far, spread=1.0), prior, vectorized=False, array="numpy")
    with pytest.raises(ConfigError, match=f"its {LOST}"):
        lost.simulate(theta, torch.Generator())


def test_few_simulations_are_refused():
    with pytest.raises(ConfigError, match=r"\(4, 2\).*expected at least 10 rows to split"):
        DataTask(rows(0.0, 4), rows(0.0, 4))


def test_a_likelihood_that_cannot_be_called_is_what_is_blamed(caplog):
    caplog.set_level(logging.WARNING)
    prior = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    message = r"^task.log_likelihood raised TypeError: .*\. It is called with theta \(B, D\) and x"
    with pytest.raises(ConfigError, match=message) as caught:
        FunctionTask(lambda theta: theta, prior, log_likelihood=lambda theta: theta[:, 0])
    assert "vectorized" not in str(caught.value)


def test_a_prior_that_wants_arguments_is_what_is_blamed():
    def simulate(theta):
        return theta

    with pytest.raises(ConfigError, match=r"task.prior='simulate'.* a function without arguments"):
        FunctionTask(simulate, simulate)
