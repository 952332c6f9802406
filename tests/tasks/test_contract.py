"""What every task must do; tasks are found through conf/task, so a new one needs no list here."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from robust_npe.config import build, config_directory
from robust_npe.random import draws_from, stream

FOLDER = config_directory() / "task"
NAMES = sorted(str(p.relative_to(FOLDER).with_suffix("")) for p in FOLDER.rglob("*.yaml"))


@pytest.fixture(scope="module", params=NAMES)
def task(request):
    config = OmegaConf.load(FOLDER / f"{request.param}.yaml")
    return build(config.get("task", config), "task")


def simulated(task, num, seed=0):
    generator = stream(seed, "contract")
    theta = task.sample_prior(num, generator)
    return theta, task.simulate(theta, generator)


def test_shapes_types_and_names(task):
    theta, x = simulated(task, 7)
    assert theta.shape == (7, task.dim_theta)
    assert x.shape == (7, task.dim_x)
    assert theta.dtype == x.dtype == torch.float32
    assert len(task.theta_names) == len(set(task.theta_names)) == task.dim_theta
    assert len(task.x_names) == len(set(task.x_names)) == task.dim_x


def test_same_generator_gives_the_same_simulations(task):
    first, again, other = (simulated(task, 20, seed) for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_simulator_is_random_given_theta(task):
    theta, x = simulated(task, 20)
    assert not torch.equal(x, task.simulate(theta, stream(1, "again")))


def test_simulations_are_finite_and_in_support_and_domain(task):
    theta, x = simulated(task, 200)
    assert task.support.check(theta).all()
    assert x.isfinite().float().mean() > 0.99
    if task.domain is not None:
        low, high = task.domain
        assert low.shape == high.shape == (task.dim_x,)
        assert ((x >= low) & (x <= high)).all()


def test_likelihood_belongs_to_the_simulator(task):
    # E[p(x|b) / p(x|a)] over x ~ p(.|a) is 1 for every b if p is the density of the simulator
    if not task.knows("log_likelihood"):
        pytest.skip("no likelihood")
    theta, _ = simulated(task, 2)
    for a, direction in zip(theta, torch.randn(theta.shape, generator=stream(2)), strict=True):
        x = task.simulate(a.expand(1500, -1), stream(3))
        step = 0.3
        for _ in range(15):  # a step at which the likelihoods differ visibly, yet overlap
            b = a + step * direction
            inside = bool(task.support.check(b).all())
            ratio = task.log_likelihood(b, x) - task.log_likelihood(a, x) if inside else None
            if ratio is not None and ratio.std() < 0.5:
                break
            step *= 0.5
        assert ratio is not None
        if ratio.std() < 0.02:  # e.g. parameters that the observation does not depend on
            continue
        if task.log_likelihood(a, task.simulate(b.expand(1500, -1), stream(4))).isinf().any():
            continue  # what x is possible depends on theta: the identity does not hold
        values = ratio.exp()
        error = values.std() / len(values) ** 0.5
        assert (values.mean() - 1).abs() < 5 * error


def test_likelihood_broadcasts(task):
    if not task.knows("log_likelihood"):
        pytest.skip("no likelihood")
    theta, x = simulated(task, 4)
    table = task.log_likelihood(theta.unsqueeze(1), x)
    assert table.shape == (4, 4)
    torch.testing.assert_close(table.diagonal(), task.log_likelihood(theta, x))


def test_true_posterior_is_prior_times_likelihood(task):
    if not task.knows("true_posterior"):
        with pytest.raises(NotImplementedError, match=task.name):
            task.true_posterior(torch.zeros(1, task.dim_x))
        return
    _, x = simulated(task, 3)
    posterior = task.true_posterior(x.double())
    with draws_from(stream(5)):
        theta = posterior.sample((50,))
    evidence = task.prior.log_prob(theta.float()).double() + task.log_likelihood(theta, x)
    constant = evidence - posterior.log_prob(theta)
    assert constant.std(0).max() < 1e-2 * max(1, posterior.log_prob(theta).std())


def test_references(task):
    if task.num_references == 0:
        with pytest.raises(NotImplementedError, match=task.name):
            task.reference(1)
        return
    reference = task.reference(task.num_references)
    assert reference.x.shape == (task.dim_x,)
    assert reference.theta.shape == (task.dim_theta,)
    assert reference.samples.shape[1] == task.dim_theta
    assert task.support.check(reference.samples).all()
    with pytest.raises(ValueError, match="reference"):
        task.reference(task.num_references + 1)
    if task.knows("true_posterior"):  # stored samples and closed form agree
        exact = task.true_posterior(reference.x.double().unsqueeze(0))
        error = exact.stddev[0] / len(reference.samples) ** 0.5
        assert ((reference.samples.mean(0) - exact.mean[0]).abs() < 5 * error).all()


def test_noise_norm_is_that_of_the_simulator(task):
    if task.noise_norm is None:
        return
    theta, _ = simulated(task, 1)
    many = task.simulate(theta.expand(2000, -1), stream(4)).double()
    noise = many - many.mean(0)
    assert float(noise.norm(dim=1).mean()) == pytest.approx(task.noise_norm, rel=0.05)


def test_plot_draws(task, axes):
    _, x = simulated(task, 1)
    task.plot(axes, x[0])
    assert axes.has_data() or axes.images
    assert axes.get_xlabel() or axes.images
