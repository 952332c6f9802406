from __future__ import annotations

import importlib
import json

import pytest
import torch

from robust_npe.checks import ConfigError
from robust_npe.store import Store, chunks, simulations
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

    with pytest.raises(ValueError, match="All 5 simulations of task gaussian_linear"):
        simulations(Store(tmp_path), Broken(), CONFIG, "train", 5, 0)


def test_number_must_be_positive(tmp_path):
    with pytest.raises(ConfigError, match="num_simulations=0"):
        simulations(Store(tmp_path), GaussianLinear(), CONFIG, "train", 0, 0)


def test_large_sets_are_mapped(tmp_path, monkeypatch):
    read = simulations(Store(tmp_path), GaussianLinear(), CONFIG, "train", 50, 0)
    monkeypatch.setattr(module, "IN_MEMORY_BYTES", 0)
    mapped = simulations(Store(tmp_path), GaussianLinear(), CONFIG, "train", 50, 0)
    assert torch.equal(mapped.x, read.x)
