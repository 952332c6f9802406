import pytest
import torch

from robust_npe.random import stream
from robust_npe.tasks.sir import SIR


@pytest.fixture(scope="module")
def task():
    return SIR()


def test_shapes_names_types_and_domain(task):
    theta = task.sample_prior(500, stream(0))
    x = task.simulate(theta, stream(1))
    low, high = task.domain
    assert x.shape == (500, 50)
    assert x.dtype == torch.float32
    assert torch.isfinite(x).all()
    assert ((x >= low) & (x <= high)).all()
    assert len(task.theta_names) == task.dim_theta == 2
    assert len(set(task.x_names)) == task.dim_x == 50


def test_equal_generators_give_equal_simulations(task):
    theta = task.sample_prior(3, stream(0))
    assert torch.equal(task.simulate(theta, stream(1)), task.simulate(theta, stream(1)))
    assert not torch.equal(task.simulate(theta, stream(1)), task.simulate(theta, stream(2)))


def test_simulations_have_the_moments_of_the_likelihood(task):
    theta = task.sample_prior(1, stream(0)).expand(4000, 2)
    x = task.simulate(theta, stream(1)).double()
    log_location = torch.log(task.solution(theta[0]) + task.offset)
    residual = (x.log() - log_location) / task.noise_std
    assert float(residual.mean().abs()) < 0.01
    assert float(residual.std()) == pytest.approx(1, abs=0.01)
    entropy = -task.log_likelihood(theta[0], x).mean()
    constant = torch.log(torch.tensor(task.noise_std * (2 * torch.pi) ** 0.5))
    expected = (0.5 + constant + log_location).sum()
    assert float(entropy) == pytest.approx(float(expected), abs=0.5)


def test_log_likelihood_broadcasts_and_ends_at_zero(task):
    theta = task.sample_prior(6, stream(0))
    x = task.simulate(theta, stream(1))
    assert task.log_likelihood(theta[:, None], x).shape == (6, 6)
    x[0, 3] = -1e-6
    assert torch.isinf(task.log_likelihood(theta, x)).tolist() == [True] + [False] * 5


@pytest.mark.parametrize(
    "setting",
    [
        {"prior_std": 0.0},
        {"population": 0.0},
        {"initial_infected": 0.0},
        {"duration": 0.0},
        {"num_points": 1},
        {"noise_std": -0.1},
        {"offset": 0.0},
        {"substeps": 0},
    ],
)
def test_bad_settings_are_named(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        SIR(**setting)


def test_plot_draws_a_trace_and_a_band(task, axes):
    x = task.simulate(task.sample_prior(20, stream(0)), stream(1))
    task.plot(axes, x[0])
    task.plot(axes, x)
    assert len(axes.lines) == 2
    assert len(axes.collections) == 3
