from __future__ import annotations

import importlib
import json
import multiprocessing
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from robust_npe.checks import ConfigError
from robust_npe.store import (
    CorruptArtefactError,
    Store,
    StoreError,
    chunks,
    load_simulations,
    simulations,
)
from robust_npe.tasks import GaussianLinear

CONFIG = {"_target_": "robust_npe.tasks.GaussianLinear"}


module = importlib.import_module("robust_npe.store.simulations")  # its name is the function's, too


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 40)
    monkeypatch.setattr(chunks, "ATTEMPTS", 40)


class Fragile(GaussianLinear):
    """Fails on demand, and gives non-finite values where the first parameter is large."""

    def __init__(self, fail_at=None):
        super().__init__()
        self.calls = 0
        self.fail_at = fail_at

    def simulate(self, theta, generator):
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        x = super().simulate(theta, generator)
        x[theta[:, 0] > 1, 3] = torch.nan
        return x


def content(root):
    (folder,) = [p.parent for p in root.glob("simulations/*/manifest.json")]
    return (folder / "theta.npy").read_bytes(), (folder / "x.npy").read_bytes()


def test_pairs_belong_together(tmp_path):
    task = GaussianLinear(noise_std=1e-6)
    pairs = simulations(Store(tmp_path), task, CONFIG, "train", 100, 0)
    assert pairs.theta.shape == pairs.x.shape == (100, 10)
    assert pairs.x.dtype == torch.float32
    torch.testing.assert_close(pairs.x, (task.slopes * pairs.theta).float(), atol=1e-4, rtol=0)


def test_splits_and_seeds_are_independent(tmp_path):
    def first(split, seed):
        task = GaussianLinear()
        return simulations(Store(tmp_path), task, CONFIG, split, 10, seed).theta[0]

    draws = [first("train", 0), first("test", 0), first("train", 1)]
    assert len({tuple(d.tolist()) for d in draws}) == 3
    assert torch.equal(draws[0], first("train", 0))


def test_interrupted_simulation_ends_with_the_same_bytes(tmp_path):
    simulations(Store(tmp_path / "whole"), Fragile(), CONFIG, "train", 100, 0)
    interrupted = Store(tmp_path / "interrupted")
    with pytest.raises(KeyboardInterrupt):
        simulations(interrupted, Fragile(fail_at=2), CONFIG, "train", 100, 0)
    again = Fragile()
    simulations(interrupted, again, CONFIG, "train", 100, 0)
    assert again.calls == 2  # chunks 2 and 3; the first one was kept
    assert content(tmp_path / "whole") == content(tmp_path / "interrupted")


def test_non_finite_simulations_are_counted_and_left_out(tmp_path):
    pairs = simulations(Store(tmp_path), Fragile(), CONFIG, "train", 100, 0)
    assert 0 < pairs.num_dropped < 100
    assert len(pairs.x) == len(pairs.theta) == 100 - pairs.num_dropped
    assert pairs.x.isfinite().all()
    assert (pairs.theta[:, 0] <= 1).all()
    manifest = next(tmp_path.glob("simulations/*/manifest.json"))
    assert json.loads(manifest.read_text())["facts"]["num_dropped"] == pairs.num_dropped


def test_nothing_but_failures_is_an_error(tmp_path):
    class Broken(GaussianLinear):
        def simulate(self, theta, generator):
            return torch.full_like(theta, torch.inf)

    with pytest.raises(ConfigError, match="All 5 simulations of task gaussian_linear"):
        simulations(Store(tmp_path), Broken(), CONFIG, "train", 5, 0)
    assert not list((tmp_path / "simulations").iterdir())


def test_number_must_be_positive(tmp_path):
    with pytest.raises(ConfigError, match="num_simulations=0"):
        simulations(Store(tmp_path), GaussianLinear(), CONFIG, "train", 0, 0)


def test_large_sets_are_mapped(tmp_path, monkeypatch):
    read = simulations(Store(tmp_path), GaussianLinear(), CONFIG, "train", 50, 0)
    monkeypatch.setattr(module, "IN_MEMORY_BYTES", 0)
    mapped = simulations(Store(tmp_path), GaussianLinear(), CONFIG, "train", 50, 0)
    assert torch.equal(mapped.x, read.x)


class Returns(GaussianLinear):
    """Returns something of its own instead of x."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def simulate(self, theta, generator):
        return self.change(super().simulate(theta, generator))


WRONG = {
    "(B, 1)": lambda x: x[:, :1],
    "(B,)": lambda x: x[:, 0],
    "(B, 5)": lambda x: x[:, :5],
    "(B-1, 10)": lambda x: x[1:],
    "(1, 10)": lambda x: x[:1],
    "(B, 1, 10)": lambda x: x[:, None],
    "()": lambda x: x.sum(),
    "numpy (B, 1)": lambda x: x[:, :1].numpy(),
    "numpy objects": lambda x: x.numpy().astype(object),
    "complex": lambda x: x + 0j,
    "list": lambda x: x.tolist(),
    "tuple": lambda x: (x, x),
    "None": lambda x: None,
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_what_is_no_observation_is_refused(tmp_path, change):
    with pytest.raises(ConfigError, match=r"task gaussian_linear: .* x as .* shape \(7, 10\)"):
        simulations(Store(tmp_path), Returns(change), CONFIG, "train", 7, 0)
    assert not list((tmp_path / "simulations").iterdir())


def test_a_filter_of_another_shape_is_refused(tmp_path):
    class Filters(GaussianLinear):
        def simulate_and_filter(self, theta, generator):
            return self.simulate(theta, generator), torch.ones(len(theta), 1, dtype=torch.bool)

    with pytest.raises(ConfigError, match=r"accepted as .* shape \(40,\)"):
        simulations(Store(tmp_path), Filters(), CONFIG, "train", 7, 0)


ALLOWED = {
    "float64": lambda x: x.double(),
    "needs gradients": lambda x: x.clone().requires_grad_(True) * 1,
    "numpy": lambda x: x.numpy(),
    "numpy float64": lambda x: x.double().numpy(),
    "numpy, read-only": lambda x: np.broadcast_to(x.numpy(), x.shape),
    "not contiguous": lambda x: x.T.contiguous().T,
}


@pytest.mark.parametrize("change", ALLOWED.values(), ids=ALLOWED)
def test_other_forms_of_the_same_numbers_give_the_same_bytes(tmp_path, change):
    simulations(Store(tmp_path / "a"), GaussianLinear(), CONFIG, "train", 50, 0)
    simulations(Store(tmp_path / "b"), Returns(change), CONFIG, "train", 50, 0)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_counts_are_stored_as_floats(tmp_path):
    task = Returns(lambda x: x.round().int())
    x = simulations(Store(tmp_path), task, CONFIG, "train", 50, 0).x
    assert x.dtype == torch.float32
    assert torch.equal(x, x.round())


def test_what_overflows_float32_is_not_finite(tmp_path):
    def overflow(x):
        x = x.double()
        x[:3, 2] = torch.tensor([1e39, -1e300, 1e38], dtype=torch.float64)
        return x

    pairs = simulations(Store(tmp_path), Returns(overflow), CONFIG, "train", 10, 0)
    assert pairs.num_dropped == 2
    assert len(pairs.x) == 8
    assert pairs.x[0, 2] == np.float32(1e38)


def test_a_flipped_byte_is_noticed_and_the_set_made_again(tmp_path, caplog):
    store = Store(tmp_path)
    whole = simulations(store, GaussianLinear(), CONFIG, "train", 50, 0)
    (path,) = tmp_path.glob("simulations/*/x.npy")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptArtefactError, match=r"x\.npy does not match its checksum"):
        load_simulations(path.parent)
    again = simulations(store, GaussianLinear(), CONFIG, "train", 50, 0)
    assert torch.equal(again.x, whole.x)
    assert "set aside" in caplog.text


@pytest.mark.parametrize(
    "facts", [{"num_accepted": 49}, {"num_requested": "many"}, {"num_rejected": 1}]
)
def test_a_set_that_does_not_fit_its_manifest_is_refused(tmp_path, facts):
    simulations(Store(tmp_path), GaussianLinear(), CONFIG, "train", 50, 0)
    (path,) = tmp_path.glob("simulations/*/manifest.json")
    manifest = json.loads(path.read_text())
    del manifest["manifest_sha256"]
    manifest["facts"] |= facts
    path.write_text(json.dumps(manifest))
    with pytest.raises(CorruptArtefactError, match=str(path.parent)):
        load_simulations(path.parent)


def test_a_new_version_is_another_set(tmp_path, monkeypatch):
    plan = chunks.SimulationPlan(GaussianLinear(), CONFIG, "train", 50, 0)
    before = plan.description
    monkeypatch.setattr(chunks.SimulationPlan, "version", 2)
    assert plan.description != before


def test_joined_files_are_those_that_numpy_writes(tmp_path):
    simulations(Store(tmp_path), GaussianLinear(), CONFIG, "train", 100, 0)
    (path,) = tmp_path.glob("simulations/*/x.npy")
    np.save(tmp_path / "x.npy", np.load(path))
    assert path.read_bytes() == (tmp_path / "x.npy").read_bytes()


def test_killed_while_the_set_is_put_together(tmp_path, monkeypatch):
    simulations(Store(tmp_path / "whole"), GaussianLinear(), CONFIG, "train", 100, 0)
    interrupted = Store(tmp_path / "interrupted")

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "_report", interrupt)
        with pytest.raises(KeyboardInterrupt):
            simulations(interrupted, GaussianLinear(), CONFIG, "train", 100, 0)
    again = Fragile(fail_at=1)
    simulations(interrupted, again, CONFIG, "train", 100, 0)
    assert again.calls == 0
    assert content(tmp_path / "whole") == content(tmp_path / "interrupted")


def test_sets_that_do_not_fit_on_the_disk_are_not_begun(tmp_path):
    with pytest.raises(StoreError, match=r"needs .* GB are free"):
        simulations(Store(tmp_path), GaussianLinear(), CONFIG, "train", 10**14, 0)
    assert not list((tmp_path / "simulations").iterdir())


def simulate_with_little_space(root: Path, message: Path):
    """The system refuses to let a file grow, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    try:
        simulations(Store(root), GaussianLinear(), CONFIG, "train", 130, 0)
    except StoreError as error:
        message.write_text(str(error))


def test_no_space_is_an_error_and_the_same_command_continues(tmp_path):
    root, message = tmp_path / "store", tmp_path / "message"
    context = multiprocessing.get_context("fork")
    process = context.Process(target=simulate_with_little_space, args=(root, message))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert "theta.npy cannot be written: File too large" in message.read_text()
    assert len(list(root.glob("simulations/*.partial/parts/chunk_*.npz"))) == 4
    task = Fragile(fail_at=1)
    assert len(simulations(Store(root), task, CONFIG, "train", 130, 0).x) == 130
    assert task.calls == 0
