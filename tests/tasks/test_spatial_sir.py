import pytest
import torch
from scipy.stats import beta, kstest

from robust_npe.random import stream
from robust_npe.tasks.spatial_sir import SpatialSIR, _beta


@pytest.fixture(scope="module")
def task():
    return SpatialSIR()


def slow_epidemic(task, theta, generator):
    """The same rules written plainly: every cell gets its number in every step."""
    shape = (len(theta), 1, task.size, task.size)
    contact, recovery = theta.T[..., None, None, None]
    ill = torch.rand(shape, generator=generator) < task.num_seeds / task.dim_x
    immune = torch.zeros_like(ill)
    kernel = torch.ones(1, 1, 3, 3)
    for _ in range(task.num_steps):
        exposure = torch.conv2d(ill.float(), kernel, padding=1)
        caught = contact / 8 * exposure > torch.rand(shape, generator=generator)
        caught &= ~ill & ~immune
        recovered = ill & (recovery > torch.rand(shape, generator=generator))
        gone = immune if task.delayed_recovery else recovered
        ill = (ill | caught) & ~gone
        immune = immune | recovered
    return ill[:, 0]


def test_shapes_names_and_domain(task):
    theta = task.sample_prior(50, stream(0))
    x = task.simulate(theta, stream(1))
    low, high = task.domain
    assert x.shape == (50, 900)
    assert x.dtype == torch.float32
    assert ((x >= low) & (x <= high)).all()
    assert torch.equal(x, task.simulate(theta, stream(1)))
    assert not torch.equal(x, task.simulate(theta, stream(2)))
    assert task.simulate(theta[:0], stream(1)).shape == (0, 900)
    assert len(set(task.x_names)) == task.dim_x
    assert len(task.theta_names) == task.dim_theta == 2
    assert not task.knows("log_likelihood")
    with pytest.raises(NotImplementedError, match="likelihood"):
        task.log_likelihood(theta, x)


@pytest.mark.parametrize("delayed", [True, False])
@pytest.mark.parametrize("theta", [(1.0, 0.5), (3.0, 0.3), (0.7, 1.4)])
def test_epidemics_are_distributed_as_the_plain_rules_say(delayed, theta):
    task = SpatialSIR(delayed_recovery=delayed)
    rows = torch.tensor([theta]).expand(1500, 2)
    fast = task.epidemic(rows, stream(0)).flatten(1).sum(1).float()
    slow = slow_epidemic(task, rows, stream(1)).flatten(1).sum(1).float()
    error = ((fast.var() + slow.var()) / 1500).sqrt()
    assert abs(float(fast.mean() - slow.mean())) < 4 * float(error)
    for quantile in (0.2, 0.5, 0.8):
        edge = slow.quantile(quantile)
        share = float((fast <= edge).float().mean() - (slow <= edge).float().mean())
        assert abs(share) < 0.07


def test_a_recovered_cell_stays_immune():
    task = SpatialSIR(num_steps=40, num_seeds=20.0)
    theta = torch.tensor([[30.0, 2.0]]).expand(5, 2)
    assert not task.epidemic(theta, stream(0)).any()


def test_spread_of_the_observations_is_the_published_one(task):
    x = task.simulate(task.sample_prior(3000, stream(0)), stream(1))
    assert float(x.std(dim=1).mean()) == pytest.approx(0.23, abs=0.015)


@pytest.mark.parametrize("a", [0.05, 0.5])
def test_beta_draws_follow_their_distribution(a):
    draws = _beta(torch.Size([50_000]), a, stream(0))
    assert kstest(draws.double().numpy(), beta(a, 1 + a).cdf).pvalue > 0.001


@pytest.mark.parametrize(
    "setting",
    [{"size": 1}, {"num_steps": 0}, {"num_seeds": 0.0}, {"num_seeds": 901.0}, {"test_error": 0.0}],
)
def test_bad_settings_are_named(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        SpatialSIR(**setting)


def test_plot_is_an_image(task, axes):
    x = task.simulate(task.sample_prior(4, stream(0)), stream(1))
    task.plot(axes, x[0])
    task.plot(axes, x)
    assert axes.images[0].get_array().shape == (30, 30)
