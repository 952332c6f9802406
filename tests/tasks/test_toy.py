import pytest
import torch
from scipy.stats import kstest

from robust_npe.random import stream
from robust_npe.tasks.toy import Toy


@pytest.fixture(scope="module")
def task():
    return Toy()


def test_prior_and_simulator_give_the_joint_distribution(task):
    """x must be uniform, and theta given x must follow the stated mixture."""
    theta = task.sample_prior(20_000, stream(0))
    x = task.simulate(theta, stream(1))
    assert x.shape == theta.shape == (20_000, 1)
    assert x.dtype == torch.float32
    assert kstest(x[:, 0].double().numpy(), "uniform", args=(-5, 20)).pvalue > 0.001
    posterior = task.true_posterior(x)
    parts = posterior.component_distribution.base_dist
    below = parts.cdf(theta[:, None])[..., 0] * posterior.mixture_distribution.probs
    assert kstest(below.sum(-1).double().numpy(), "uniform").pvalue > 0.001


def test_prior_density_is_normalised_and_that_of_its_samples(task):
    grid = torch.linspace(-14, 14, 4001, dtype=torch.float64)
    density = task.prior.log_prob(grid[:, None]).exp()
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=1e-4)
    below = torch.cumulative_trapezoid(density, grid)
    theta = task.sample_prior(5000, stream(0))[:, 0].double()
    share = below[torch.searchsorted(grid, theta).clamp(max=3999)]
    assert kstest(share.numpy(), "uniform").pvalue > 0.001
    assert task.prior.log_prob(torch.zeros(2, 3, 1)).shape == (2, 3)


def test_likelihood_is_bayes_rule_and_normalised(task):
    grid = torch.linspace(-5, 15, 2001, dtype=torch.float64)
    for theta in (-4.0, 0.0, 3.0):
        density = task.log_likelihood(torch.tensor([theta]), grid[:, None]).exp()
        assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=1e-3)
    theta, x = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [16.0]])
    joint = task.log_likelihood(theta, x) + task.prior.log_prob(theta)
    expected = task.true_posterior(x).log_prob(theta)[0] - torch.log(torch.tensor(20.0))
    assert float(joint[0]) == pytest.approx(float(expected), abs=1e-4)
    assert float(joint[1]) == -torch.inf


def test_equal_generators_give_equal_simulations(task):
    theta = task.sample_prior(5, stream(0))
    assert torch.equal(theta, task.sample_prior(5, stream(0)))
    assert torch.equal(task.simulate(theta, stream(1)), task.simulate(theta, stream(1)))
    assert not torch.equal(task.simulate(theta, stream(1)), task.simulate(theta, stream(2)))
    assert task.simulate(theta[:0], stream(1)).shape == (0, 1)


def test_names_domain_and_plot(task, axes):
    assert (task.theta_names, task.x_names) == (["theta"], ["x"])
    assert task.dim_theta == task.dim_x == 1
    assert [float(edge) for edge in task.domain] == [-5, 15]
    task.plot(axes, torch.tensor([3.0]))
    assert len(axes.lines) == 1
