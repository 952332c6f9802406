"""One's own simulator: calls are reproducible, and what goes wrong is told in one line."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal

import robust_npe as rn
from robust_npe.checks import ConfigError
from robust_npe.components import build, describe
from robust_npe.estimators import FullGaussian
from robust_npe.random import stream
from robust_npe.store import Store, content_key, simulations
from robust_npe.store.chunks import SimulationPlan
from robust_npe.tasks import FunctionTask, Task
from robust_npe.training import TrainingSettings
from tests import own_simulator
from tests.own import own_settings
from tests.test_consent import forget

NORMAL = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
NODE = {"_target_": "robust_npe.tasks.NamedFunctionTask"}


def with_torch(theta):
    return theta + torch.randn_like(theta)


def with_numpy(theta):
    return theta.astype(float) + np.random.normal(size=theta.shape)


def with_either(theta):
    return theta * 2 + random.random()


def generators():
    state = np.random.get_state()
    return torch.get_rng_state().tolist(), state[1].tolist(), state[2], random.getstate()


@pytest.mark.parametrize(
    ("simulate", "array"),
    [(with_torch, "torch"), (with_numpy, "numpy"), (with_either, "numpy")],
)
def test_arrays_are_those_that_the_function_understands(simulate, array, caplog):
    before = generators()
    task = FunctionTask(simulate, NORMAL)
    assert (task.array, task.name, task.x_shape) == (array, simulate.__name__, (2,))
    first, again = (rn.simulate(task, 50, seed=3)[1] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, rn.simulate(task, 50, seed=4)[1])
    assert first.dtype == torch.float32
    assert generators() == before  # global generators are as they were
    assert not caplog.records


def test_what_depends_on_the_kind_of_arrays_must_be_decided():
    def spread(theta):  # divides by n in numpy, by n - 1 in torch
        return (theta - theta.mean()) / theta.std()

    with pytest.raises(ConfigError, match=r"task\.array=numpy or task\.array=torch"):
        FunctionTask(spread, NORMAL)
    x = FunctionTask(spread, NORMAL, array="numpy").simulate(torch.eye(2), stream(0))
    torch.testing.assert_close(x, 2 * torch.eye(2) - 1)


@pytest.mark.parametrize(
    ("likelihood", "message"),
    [(lambda theta, x: x, "returned the shape"), (lambda theta, x: x[:, 0] * np.nan, "is NaN for")],
)
def test_a_likelihood_is_tried_before_any_work(likelihood, message):
    with pytest.raises(ConfigError, match=f"task.log_likelihood {message}"):
        FunctionTask(with_torch, NORMAL, log_likelihood=likelihood)


def test_a_generator_of_its_own_is_noticed(caplog):
    def simulate(theta):
        return theta + np.random.default_rng().normal(size=theta.shape)

    FunctionTask(simulate, NORMAL)
    assert "cannot be reproduced" in caplog.text


def test_a_function_that_changes_theta_leaves_the_pairs_alone():
    def simulate(theta):
        theta *= 10
        return theta

    theta, x = rn.simulate(FunctionTask(simulate, NORMAL), 20)
    torch.testing.assert_close(x, 10 * theta)


def test_one_by_one_is_the_same_on_one_core_and_on_all(monkeypatch):
    task = FunctionTask(own_simulator.series, NORMAL, vectorized=False)
    assert (task.x_shape, task.dim_x, task.embedding) == ((12, 2), 24, "series_cnn")
    assert task.x_names[:3] == ["x_1,1", "x_1,2", "x_2,1"]
    theta = task.sample_prior(6, stream(0))
    on_all = task.simulate(theta, stream(1))
    monkeypatch.setattr("robust_npe.tasks.calling.cpu_count", lambda: 1)
    assert torch.equal(on_all, task.simulate(theta, stream(1)))
    assert not torch.equal(on_all[0] - on_all[1], torch.zeros(24))
    # a row's numbers do not depend on the other rows
    assert torch.equal(on_all[:2], task.simulate(theta[:2], stream(1)))


def test_slow_simulators_continue_where_they_were(tmp_path, monkeypatch):
    calls = []

    def simulate(theta):
        calls.append(1)
        if len(calls) == 300:
            raise KeyboardInterrupt
        return theta

    monkeypatch.setattr("robust_npe.tasks.calling.cpu_count", lambda: 1)
    task = FunctionTask(simulate, NORMAL, vectorized=False, array="numpy", x_shape=[2])
    assert not calls  # nothing had to be tried
    assert SimulationPlan(task, {}, "train", 600, 0).num_chunks == 3
    with pytest.raises(KeyboardInterrupt):
        simulations(Store(tmp_path), task, {}, "train", 600, 0)
    assert len(simulations(Store(tmp_path), task, {}, "train", 600, 0).x) == 600
    assert len(calls) == 300 + 600 - 256  # the first chunk was not simulated again


def ragged(theta):
    return [[1.0], [1.0, 2.0]]


def fails(theta):
    return theta @ np.ones((3, 1)) / 0


@pytest.mark.parametrize(
    ("simulate", "message"),
    [
        (fails, r"simulator fails raised ValueError: .*test_function.py, line \d+\)"),
        (lambda theta: theta[:2], r"shape \(2, 2\) for 7 parameters, expected \(7, \.\.\.\)"),
        (lambda theta: None, "returned NoneType, expected an array of real numbers"),
        (lambda theta: theta * 1j, "returned ndarray of complex128, expected an array"),
        (ragged, "returned list, expected an array of real numbers"),
        (lambda theta: sys.exit(3), "raised SystemExit: 3"),
        (7, "task.simulator=7 .* a function of theta"),
    ],
)
def test_simulators_that_fail_are_told_in_one_line(simulate, message):
    with pytest.raises(ConfigError, match=message) as error:
        FunctionTask(simulate, NORMAL)
    assert "\n" not in str(error.value)


def test_failures_later_on():
    def simulate(theta):
        if len(theta) > 10:
            raise ZeroDivisionError("no\nroom")
        return theta

    with pytest.raises(ConfigError, match=r"raised ZeroDivisionError: no room \(.*line"):
        rn.simulate(FunctionTask(simulate, NORMAL), 20)
    task = FunctionTask(lambda theta: theta[:, :1], NORMAL, array="torch", x_shape=[3])
    with pytest.raises(ConfigError, match=r"shape \(1,\), expected \(3,\)"):
        rn.simulate(task, 20)
    nothing = FunctionTask(lambda theta: theta * float("nan"), NORMAL)
    with pytest.raises(ConfigError, match="none of its simulations can be used"):
        rn.train(nothing, num_simulations=10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "one of two: a distribution, or bounds"),
        ({"prior": NORMAL, "low": [0.0]}, "one of two"),
        ({"low": [0.0, 1.0], "high": [1.0, 1.0]}, r"task\.high=\[1\.0, 1\.0\] .* each above"),
        ({"low": [0.0]}, r"task\.high=None"),
        ({"prior": lambda: 3}, "a torch distribution"),
        ({"prior": Normal(0.0, 1.0)}, r"event shape \(D,\)"),
        ({"prior": NORMAL, "noise_std": [0.1]}, "one for each feature"),
        ({"prior": NORMAL, "theta_names": ["a", "a"]}, "2 different names"),
        ({"prior": NORMAL, "array": "jax"}, "one of auto"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ConfigError, match=message):
        FunctionTask(with_torch, **settings)


def test_names_lead_into_files_that_were_handed_over(tmp_path, monkeypatch):
    node = NODE | own_settings("function", tmp_path, monkeypatch)
    task = build(node, "task", Task)
    assert task.name == "own_simulator:simulate"
    assert task.theta_names == ["level", "slope"]
    assert task.noise_std == 0.1
    assert build(node | {"prior": "own_simulator:make_prior"}, "task", Task).dim_theta == 2
    for wrong in ("robust_npe.api:kl", "os:system", "own_simulator", "own_simulator:np.exp", ":a"):
        with pytest.raises(ConfigError, match=r"task\.simulator="):
            build(node | {"simulator": wrong}, "task", Task)
    monkeypatch.setenv("ROBUST_NPE_MODULES", "")
    with pytest.raises(ConfigError, match=r"hand it over: --module own_simulator\.py"):
        build(node, "task", Task)


def test_code_and_files_are_part_of_the_identity(tmp_path, monkeypatch):
    simulator, helper, table = (tmp_path / n for n in ("own_tasks.py", "own_base.py", "table.csv"))
    modules = [helper, simulator]
    monkeypatch.setenv("ROBUST_NPE_MODULES", ":".join(map(str, modules)))
    simulator.write_text("from own_base import scale\n\ndef simulate(theta):\n    return theta\n")
    node = {**NODE, "simulator": "own_tasks:simulate", "low": [0], "high": [1]}
    node |= {"files": [str(table)]}

    def key(changed, text):
        changed.write_text(text)
        forget()
        return content_key(describe(node, "task", Task))

    helper.write_text("def scale():\n    return 1\n")
    keys = [key(table, "1")]
    try:
        keys += [key(table, "2"), key(helper, "def scale():\n    return 2\n")]
        keys += [key(simulator, simulator.read_text() + "\n")]
        assert len(set(keys)) == 4
        assert key(table, "2") == keys[-1]
    finally:
        forget()


@pytest.mark.parametrize("unit", [(1e-9, 1e-9), (1e6, 1e6), (1e-9, 1e6)])
def test_units_of_x_do_not_matter(unit):
    settings = TrainingSettings(max_epochs=3, min_epochs=1)

    def trained(factor):
        def simulate(theta):
            return factor * (theta + 0.3 * torch.randn_like(theta))

        task = FunctionTask(simulate, NORMAL)
        q = rn.train(task, FullGaussian, num_simulations=500, settings=settings)
        theta, x = rn.simulate(task, 50, seed=1)
        return q(x).log_prob(theta)

    expected = trained(torch.ones(2))
    torch.testing.assert_close(trained(torch.tensor(unit)), expected, rtol=1e-3, atol=2e-3)


MATRIX = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -1.0]])


def linear(theta):
    return theta @ MATRIX + 0.2 * torch.randn(len(theta), 3)


def gap_to_closed_form(head, num_simulations):
    """Test NLL of a trained posterior, minus that of the exact one."""
    task = FunctionTask(linear, NORMAL)
    q = rn.train(task, head, num_simulations=num_simulations)
    theta, x = rn.simulate(task, 2000, seed=1)
    precision = torch.eye(2) + MATRIX @ MATRIX.T / 0.04
    mean = torch.linalg.solve(precision, MATRIX @ x.T / 0.04).T
    exact = MultivariateNormal(mean, precision_matrix=precision)
    with torch.no_grad():
        return float((exact.log_prob(theta) - q(x).log_prob(theta)).mean())


def test_negative_log_likelihood_is_near_the_closed_form():
    assert -0.02 < gap_to_closed_form(FullGaussian, 2000) < 0.1


def test_negative_log_likelihood_of_the_default_flow_is_near_the_closed_form():
    assert -0.02 < gap_to_closed_form(rn.estimators.MAF, 10_000) < 0.1
