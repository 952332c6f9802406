from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from robust_npe.checks import ConfigError
from robust_npe.random import stream
from robust_npe.store import Store, chunks, simulations
from robust_npe.tasks.pyloric import CELLS, Pyloric, simulate


@pytest.fixture(scope="module")
def batch():
    task = Pyloric()
    theta = task.sample_prior(320, stream(0))
    return task, theta, *task.simulate_and_filter(theta, stream(1))


def test_traces_are_those_of_the_kernel_cell_by_cell(batch):
    task, theta, x, accepted = batch
    seed = int(torch.randint(2**62, (), generator=stream(1)))
    kernel = simulate(theta[:16].double().numpy(), seed)
    assert torch.equal(x[:16].view(16, 3, 800), torch.from_numpy(kernel.voltage))
    assert accepted[:16].tolist() == kernel.valid.tolist()
    assert torch.equal(task.simulate(theta[:16], stream(1)), x[:16])
    names = task.x_names
    assert (names[0], names[801], names[2399]) == ("AB/PD 0 ms", "LP 2.5 ms", "PY 1997.5 ms")


def test_every_cell_of_an_accepted_network_spikes(batch):
    _, theta, x, accepted = batch
    assert 0.05 < accepted.float().mean() < 0.16  # 401 of 4096 draws in the published simulator
    seed = int(torch.randint(2**62, (), generator=stream(1)))
    fine = torch.from_numpy(simulate(theta.double().numpy(), seed, every=10).voltage)
    assert torch.equal(accepted, ((fine > 20).sum(-1) > 5).all(-1))
    assert torch.equal(x.view(-1, 3, 800), fine[:, :, ::10])


def test_impossible_parameters_are_non_finite_and_not_accepted(batch):
    task, theta, _, accepted = batch
    wrong = theta[accepted][:2].clone()
    wrong[0, 3] = -1.0
    x, usable = task.simulate_and_filter(wrong, stream(2))
    assert x[0].isnan().all()
    assert x[1].isfinite().all()
    assert not usable[0]


def test_statistics_of_long_runs(batch):
    _, theta, _, accepted = batch
    task = Pyloric("statistics", duration=3000.0)
    assert task.dim_x == len(task.x_names) == 15
    assert task.domain is None
    x, usable = task.simulate_and_filter(theta[accepted][:33], stream(3))  # more than one block
    assert x.shape == (min(33, int(accepted.sum())), 15)
    assert torch.equal(usable, x.isfinite().all(1))
    period = x[:, 0][x[:, 0].isfinite()]
    assert ((period > 40) & (period < 2000)).all()


def test_sets_hold_accepted_pairs_only(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "ATTEMPTS", 160)
    pairs = simulations(Store(tmp_path), Pyloric(), {"_target_": "pyloric"}, "train", 12, 0)
    assert pairs.x.shape == (12, 2400)
    assert pairs.num_simulated % 160 == 0
    assert pairs.num_simulated > pairs.num_accepted >= 12
    assert (pairs.x.view(12, 3, 800).amax(-1) > 0).all()


def test_plot_shows_three_cells(axes):
    task = Pyloric()
    x = task.simulate(task.sample_prior(3, stream(0)), stream(0))
    task.plot(axes, x[0], color="black")
    assert [t.get_text() for t in axes.texts] == list(CELLS)
    assert len(axes.lines) == 3
    assert axes.get_ylabel() == "voltage (mV)"
    task.plot(axes, x)  # bands
    assert len(axes.collections) == 9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": "spikes"}, "task.features='spikes'.*traces or statistics"),
        ({"every": 0}, "task.every=0"),
        ({"noise_std": -1.0}, "task.noise_std=-1.0"),
        ({"temperature": 10.0}, "task.temperature=10.0.*K"),
        ({"features": "statistics", "duration": 500.0}, "task.duration=500.0.*at least 1100"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        Pyloric(**settings)


def test_importing_the_package_does_not_import_numba():
    check = "import sys, robust_npe.tasks, robust_npe.cli; sys.exit('numba' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
