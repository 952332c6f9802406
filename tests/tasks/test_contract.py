"""What every task must do; tasks are found through conf/task, so a new one needs no list here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

import pytest
import torch
from omegaconf import OmegaConf

from robust_npe.components import build
from robust_npe.paths import config_directory
from robust_npe.random import draws_from, stream
from robust_npe.tasks import Task
from tests.own import own_settings

FOLDER = config_directory() / "task"
NAMES = sorted(str(p.relative_to(FOLDER).with_suffix("")) for p in FOLDER.rglob("*.yaml"))


@pytest.fixture(scope="module", params=NAMES)
def task(request, tmp_path_factory):
    config = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{request.param}.yaml"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        given = own_settings(request.param, tmp_path_factory.mktemp("own"), monkeypatch)
        yield build(config | given, "task", Task)


def simulated(task, num, seed=0):
    if task.knows("stored_pairs"):
        assert not task.knows("simulate")
        return task.stored_pairs("train", seed, slice(0, num))
    generator = stream(seed, "contract")
    theta = task.sample_prior(num, generator)
    return theta, task.simulate(theta, generator)


@pytest.fixture(scope="module")
def pairs(task):
    """Simulations that several tests look at; some simulators are slow to start."""
    return simulated(task, 200)


def test_shapes_types_and_names(task, pairs):
    theta, x = pairs
    assert theta.shape == (200, task.dim_theta)
    assert x.shape == (200, task.dim_x)
    assert theta.dtype == x.dtype == torch.float32
    assert len(task.theta_names) == len(set(task.theta_names)) == task.dim_theta
    assert len(task.x_names) == len(set(task.x_names)) == task.dim_x


def test_same_generator_gives_the_same_simulations(task, pairs):
    again = simulated(task, 200)
    assert torch.equal(pairs[0], again[0])
    assert torch.equal(pairs[1], again[1])


def test_another_generator_gives_others(task, pairs):
    theta, x = pairs[0][:5], pairs[1][:5]
    assert not torch.equal(theta, task.sample_prior(5, stream(1)))
    if task.knows("simulate"):
        assert not torch.equal(x, task.simulate(theta, stream(1)))


def test_simulations_are_finite_and_in_support_and_domain(task, pairs):
    theta, x = pairs
    assert task.support.check(theta).all()
    assert x.isfinite().float().mean() > 0.99
    if task.domain is not None:
        low, high = task.domain
        assert low.shape == high.shape == (task.dim_x,)
        assert ((x >= low) & (x <= high)).all()


def test_likelihood_belongs_to_the_simulator(task, pairs):
    # E[p(x|b) / p(x|a)] over x ~ p(.|a) is 1 for every b if p is the density of the simulator
    if not task.knows("log_likelihood"):
        pytest.skip("no likelihood")
    theta = pairs[0][:1]
    for a, direction in zip(theta, torch.randn(theta.shape, generator=stream(2)), strict=True):
        x = task.simulate(a.expand(1000, -1), stream(3))
        # the largest step at which the likelihoods overlap well
        steps = 0.3 * 0.5 ** torch.arange(15)
        candidates = a + steps.unsqueeze(1) * direction
        candidates = candidates[task.support.check(candidates)]
        table = task.log_likelihood(torch.cat([a.unsqueeze(0), candidates]).unsqueeze(1), x)
        ratios = table[1:] - table[0]
        (overlapping,) = torch.where(ratios.std(1) < 0.5)
        ratio, b = ratios[overlapping[0]], candidates[overlapping[0]]
        if ratio.std() < 0.02:  # e.g. parameters that the observation does not depend on
            continue
        if task.log_likelihood(a, task.simulate(b.expand(1000, -1), stream(4))).isinf().any():
            continue  # what x is possible depends on theta: the identity does not hold
        values = ratio.exp()
        error = values.std() / len(values) ** 0.5
        assert (values.mean() - 1).abs() < 5 * error


def test_likelihood_broadcasts(task, pairs):
    if not task.knows("log_likelihood"):
        pytest.skip("no likelihood")
    theta, x = pairs[0][:4], pairs[1][:4]
    table = task.log_likelihood(theta.unsqueeze(1), x)
    assert table.shape == (4, 4)
    torch.testing.assert_close(table.diagonal(), task.log_likelihood(theta, x))


def test_true_posterior_is_prior_times_likelihood(task, pairs):
    if not task.knows("true_posterior"):
        with pytest.raises(NotImplementedError, match=task.name):
            task.true_posterior(torch.zeros(1, task.dim_x))
        return
    x = pairs[1][:3]
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


def test_noise_norm_is_that_of_the_simulator(task, pairs):
    if task.noise_norm is None or not task.knows("log_likelihood"):
        return  # without a likelihood, what is not observation noise varies, too
    theta = pairs[0][:1]
    many = task.simulate(theta.expand(1000, -1), stream(4)).double()
    noise = many - many.mean(0)
    assert float(noise.norm(dim=1).mean()) == pytest.approx(task.noise_norm, rel=0.06)


def test_plot_draws(task, pairs, axes):
    task.plot(axes, pairs[1][0])
    assert axes.has_data() or axes.images
    assert axes.get_xlabel() or axes.images


def checkable(hint):
    """Whether a value from a YAML file can be checked against the hint."""
    origin = get_origin(hint)
    if origin in (Union, UnionType, Sequence, Mapping):
        return all(map(checkable, get_args(hint)))
    return origin is Literal or hint in (int, float, bool, str, Path, NoneType)


def test_arguments_can_be_checked_and_have_a_version(task):
    hints = get_type_hints(type(task).__init__)
    names = list(signature(type(task)).parameters)
    assert {name: hints[name] for name in names if not checkable(hints[name])} == {}
    assert type(task).version >= 1
