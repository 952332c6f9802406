from __future__ import annotations

import json

import pytest
import torch

from robust_npe.checks import ConfigError
from robust_npe.store import Shard, Store, chunks, simulations
from robust_npe.store.chunks import SimulationPlan
from robust_npe.store.shards import make_shard
from robust_npe.tasks import GaussianLinear

CONFIG = {"_target_": "robust_npe.tasks.GaussianLinear"}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 40)
    monkeypatch.setattr(chunks, "ATTEMPTS", 40)


class Picky(GaussianLinear):
    """Accepts a sixth of its simulations, and counts them."""

    def __init__(self, fail_at=None):
        super().__init__()
        self.calls = 0
        self.fail_at = fail_at

    def simulate_and_filter(self, theta, generator):
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        x = self.simulate(theta, generator)
        x[theta[:, 1] > 2, 3] = torch.nan
        return x, theta[:, 0] > 1


def made(root, task, number=50, seed=0):
    return simulations(Store(root), task, CONFIG, "train", number, seed)


def sharded(root, task, index, total, number=50):
    plan = SimulationPlan(task, CONFIG, "train", number, 0)
    return make_shard(Store(root), plan, Shard(index, total))


def content(root):
    (folder,) = [p.parent for p in root.glob("simulations/*/manifest.json")]
    return (folder / "theta.npy").read_bytes(), (folder / "x.npy").read_bytes()


def test_a_task_that_filters_gives_as_many_pairs_as_asked_for(tmp_path):
    pairs = made(tmp_path, Picky())
    assert len(pairs.theta) == len(pairs.x) == pairs.num_requested == 50
    assert (pairs.theta[:, 0] > 1).all()
    assert (pairs.theta[:, 1] <= 2).all()
    assert 50 <= pairs.num_accepted < pairs.num_simulated - pairs.num_dropped
    assert pairs.num_simulated % 40 == 0
    manifest = json.loads(next(tmp_path.glob("simulations/*/manifest.json")).read_text())
    names = ("num_requested", "num_simulated", "num_accepted", "num_dropped")
    assert manifest["facts"] == {name: getattr(pairs, name) for name in names}


def test_a_larger_filtered_set_begins_with_the_smaller_one(tmp_path):
    few, many = made(tmp_path, Picky(), 20), made(tmp_path, Picky(), 60)
    assert torch.equal(many.x[:20], few.x)


@pytest.mark.parametrize("fail_at", [1, 3])
def test_interrupted_filtered_set_ends_with_the_same_bytes(tmp_path, fail_at):
    task = Picky()
    made(tmp_path / "whole", task)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "interrupted", Picky(fail_at))
    again = Picky()
    made(tmp_path / "interrupted", again)
    assert again.calls == task.calls - (fail_at - 1)
    assert content(tmp_path / "whole") == content(tmp_path / "interrupted")


def test_a_filter_that_accepts_nothing_is_an_error(tmp_path):
    class Never(GaussianLinear):
        def simulate_and_filter(self, theta, generator):
            return self.simulate(theta, generator), torch.zeros(len(theta), dtype=torch.bool)

    for _ in range(2):  # a second attempt, which resumes, as well
        with pytest.raises(ValueError, match=r"All 800 .* non-finite \(0\) or were rejected"):
            made(tmp_path, Never())


@pytest.mark.parametrize("task", [Picky, GaussianLinear])
def test_merged_shards_are_the_unsharded_set(tmp_path, task):
    whole = made(tmp_path / "whole", task(), 150)
    counts = [sharded(tmp_path / "parts", task(), i, 3, 150)[1] for i in (2, 0, 1)]
    merged = made(tmp_path / "parts", task(), 150)
    assert torch.equal(merged.theta, whole.theta)
    assert content(tmp_path / "whole") == content(tmp_path / "parts")
    assert merged.num_simulated == whole.num_simulated
    assert sum(c.accepted for c in counts) >= 150


def test_merging_simulates_only_what_no_shard_has(tmp_path):
    task = Picky()
    made(tmp_path / "whole", task)
    _, counts = sharded(tmp_path / "parts", Picky(), 1, 2)
    merging = Picky()
    made(tmp_path / "parts", merging)
    assert content(tmp_path / "whole") == content(tmp_path / "parts")
    assert counts.chunks > 1
    assert merging.calls == task.calls - task.calls // 2  # chunks 0, 2, 4, ...


def test_shards_are_found_again_resumed_and_disjoint(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        sharded(tmp_path, Picky(fail_at=3), 0, 2)
    again = Picky()
    first, counts = sharded(tmp_path, again, 0, 2)
    assert first.created
    assert again.calls == counts.chunks - 2
    assert not sharded(tmp_path, again, 0, 2)[0].created
    second, _ = sharded(tmp_path, again, 1, 2)
    names = [{p.name for p in a.path.glob("chunk_*.npz")} for a in (first, second)]
    assert names[0].isdisjoint(names[1])
    assert "chunk_000000.npz" in names[0]


def test_shards_of_other_sets_are_not_taken(tmp_path):
    sharded(tmp_path, Picky(), 0, 1)
    other = Picky()
    made(tmp_path, other, seed=1)
    assert other.calls > 0


def test_damaged_shards_are_not_merged(tmp_path, caplog):
    made(tmp_path / "whole", Picky())
    artefact, _ = sharded(tmp_path / "parts", Picky(), 0, 1)
    with (artefact.path / "chunk_000000.npz").open("ab") as file:
        file.write(b"x")
    merging = Picky()
    made(tmp_path / "parts", merging)
    assert merging.calls > 0
    assert "its chunks are simulated again" in caplog.text
    assert content(tmp_path / "whole") == content(tmp_path / "parts")


@pytest.mark.parametrize("text", ["4/4", "1", "-1/4", "a/b", "0/0", "1/2/3"])
def test_wrong_shards_are_named(text):
    with pytest.raises(ConfigError, match=f"shard='{text}'"):
        Shard.parse(text)
    assert Shard.parse("3/4") == Shard(3, 4)
