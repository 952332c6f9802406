import pytest
import torch

from robust_npe.random import stream
from robust_npe.tasks.lotka_volterra import LotkaVolterra


@pytest.fixture(scope="module")
def task():
    return LotkaVolterra()


def test_shapes_names_and_types(task):
    theta = task.sample_prior(5, stream(0))
    x = task.simulate(theta, stream(1))
    assert x.shape == (5, 100)
    assert x.dtype == torch.float32
    assert torch.isfinite(x).all()
    assert len(task.theta_names) == task.dim_theta == 4
    assert len(set(task.x_names)) == task.dim_x == 100


def test_equal_generators_give_equal_simulations(task):
    theta = task.sample_prior(3, stream(0))
    assert torch.equal(task.simulate(theta, stream(1)), task.simulate(theta, stream(1)))
    assert not torch.equal(task.simulate(theta, stream(1)), task.simulate(theta, stream(2)))


def test_simulations_have_the_mean_and_noise_of_the_likelihood(task):
    theta = task.sample_prior(1, stream(0)).expand(4000, 4)
    x = task.simulate(theta, stream(1)).double()
    residual = (x - task.solution(theta[0])) / task.noise_std
    assert float(residual.mean().abs()) < 0.01
    assert float(residual.std()) == pytest.approx(1, abs=0.01)
    entropy = -task.log_likelihood(theta[0], x).mean()
    expected = 100 * (0.5 + torch.log(torch.tensor(task.noise_std * (2 * torch.pi) ** 0.5)))
    assert float(entropy) == pytest.approx(float(expected), abs=0.5)
    noise = task.noise_std * residual.norm(dim=1).mean()
    assert task.noise_norm == pytest.approx(float(noise), rel=0.01)


def test_log_likelihood_broadcasts_and_peaks_at_the_truth(task):
    theta = task.sample_prior(6, stream(0))
    x = task.simulate(theta, stream(1))
    table = task.log_likelihood(theta[:, None], x)
    assert table.shape == (6, 6)
    assert torch.equal(table.argmax(0), torch.arange(6))


def test_log_likelihood_is_differentiable_in_x(task):
    theta = task.sample_prior(2, stream(0))
    x = task.simulate(theta, stream(1)).requires_grad_()
    task.log_likelihood(theta, x).sum().backward()
    expected = (task.solution(theta) - x.detach()) / task.noise_std**2
    torch.testing.assert_close(x.grad, expected.float(), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    "setting",
    [
        {"prior_std": 0.0},
        {"initial_prey": -1.0},
        {"initial_predator": -1.0},
        {"duration": 0.0},
        {"num_points": 1},
        {"noise_std": -0.1},
        {"substeps": 0},
    ],
)
def test_bad_settings_are_named(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        LotkaVolterra(**setting)


def test_plot_draws_a_trace_and_a_band(task, axes):
    x = task.simulate(task.sample_prior(20, stream(0)), stream(1))
    task.plot(axes, x[0])
    assert len(axes.lines) == 2
    task.plot(axes, x, color="gray")
    assert len(axes.lines) == 4
    assert len(axes.collections) == 6
