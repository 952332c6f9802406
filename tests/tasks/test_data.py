"""One's own simulations: splits, files in every form, and errors that name file and shape."""

from __future__ import annotations

import importlib.util
import pickle

import numpy as np
import pandas as pd
import pytest
import torch

import robust_npe as rn
from robust_npe.checks import ConfigError
from robust_npe.components import describe
from robust_npe.estimators import FullGaussian
from robust_npe.random import draws_from, stream
from robust_npe.store import Store, content_key, simulations
from robust_npe.tasks import DataTask, FilesTask, Task
from robust_npe.training import TrainingSettings

SPLITS = ("train", "validation", "test")
NO_PARQUET = not any(importlib.util.find_spec(name) for name in ("pyarrow", "fastparquet"))


def arrays(num=100, seed=0):
    """theta `(N, 2)` and x `(N, 3)`, of which row i tells i."""
    theta = np.random.default_rng(seed).uniform(-1, 1, (num, 2))
    x = np.arange(num)[:, None] + np.array([0.0, 0.25, 0.5])
    return theta, x


def numbers(task, split, seed=0):
    return task.stored_pairs(split, seed, slice(0, None))[1][:, 0].long().tolist()


def test_splits_hold_every_row_once_and_depend_on_the_seed():
    theta, x = arrays()
    task = DataTask(theta, x, validation=0.2, test=0.1)
    parts = {split: numbers(task, split) for split in SPLITS}
    assert {split: len(part) for split, part in parts.items()} == {
        "train": 70,
        "validation": 20,
        "test": 10,
    }
    assert sorted(n for part in parts.values() for n in part) == list(range(100))
    assert numbers(task, "test") == parts["test"]
    assert numbers(task, "test", seed=1) != parts["test"]
    got = task.stored_pairs("test", 0, slice(2, 5))
    torch.testing.assert_close(got[0], torch.tensor(theta[parts["test"][2:5]]).float())


def test_the_store_holds_what_there_is_and_counts_what_is_not_finite(tmp_path, caplog):
    theta, x = arrays(1000)
    x[::10, 1] = np.nan
    x[5, 2] = 1e300  # infinite as float32
    theta[7, 0] = np.inf
    task = DataTask(theta, x)
    sets = {s: simulations(Store(tmp_path), task, {}, s, 500, 0) for s in SPLITS}
    assert sum(s.num_dropped for s in sets.values()) <= 102
    assert sets["train"].num_simulated == 500
    for split in ("validation", "test"):
        assert sets[split].num_simulated == 100
        assert len(sets[split].x) == 100 - sets[split].num_dropped
        assert f"500 pairs ({split}) were asked for" in caplog.text
    whole = simulations(Store(tmp_path), task, {}, "train", 10_000, 0)
    dropped = whole.num_dropped + sets["validation"].num_dropped + sets["test"].num_dropped
    assert dropped == 102
    assert all(s.x.isfinite().all() for s in sets.values())


def test_chunks_are_rows_one_after_the_other(tmp_path, monkeypatch):
    task = DataTask(*arrays())
    whole = simulations(Store(tmp_path / "a"), task, {}, "train", 80, 0)
    monkeypatch.setattr("robust_npe.store.chunks.CHUNK", 30)
    parts = simulations(Store(tmp_path / "b"), task, {}, "train", 200, 0)
    assert torch.equal(parts.x, whole.x)
    assert torch.equal(parts.theta, whole.theta)


def test_the_prior_draws_given_parameters_and_has_the_support_that_was_told():
    theta, x = arrays()
    bounds = {"low": [-1, -1], "high": [1, 1]}
    free, bounded = DataTask(theta, x), DataTask(theta, x, **bounds)
    drawn = free.sample_prior(5000, stream(0))
    rows = {tuple(row) for row in torch.tensor(theta).float().tolist()}
    assert {tuple(row) for row in drawn.tolist()} <= rows
    assert (drawn.mean(0) - free.prior.mean).abs().max() < 5 * 0.6 / 5000**0.5
    assert free.support.check(100 * drawn).all()
    assert not bounded.support.check(100 * drawn).any()
    with pytest.raises(NotImplementedError, match="no density"):
        free.prior.log_prob(drawn)
    uniform = DataTask(theta, x, **bounds, prior="uniform")
    assert (free.prior_density, uniform.prior_density) == (False, True)
    assert float(uniform.prior.log_prob(torch.zeros(2))) == pytest.approx(-np.log(4))
    with pytest.raises(NotImplementedError, match="no simulator"):
        free.simulate(drawn, stream(0))


FORMS = {
    "npy": lambda path, a, names: np.save(path, a),
    "npz": lambda path, a, names: np.savez(path, a),
    "csv": lambda path, a, names: pd.DataFrame(a, columns=names).to_csv(path, index=False),
    "parquet": lambda path, a, names: pd.DataFrame(a, columns=names).to_parquet(path),
}


@pytest.mark.parametrize("form", FORMS)
def test_files_in_every_form_hold_the_same_pairs(form, tmp_path):
    if form == "parquet" and NO_PARQUET:
        (tmp_path / "theta.parquet").write_bytes(b"PAR1")
        with pytest.raises(ConfigError, match=r"task\.theta=.*theta\.parquet.* pip install"):
            FilesTask(tmp_path / "theta.parquet", tmp_path / "theta.parquet")
        return
    theta, x = arrays()
    paths = tmp_path / f"theta.{form}", tmp_path / f"x.{form}"
    FORMS[form](paths[0], theta, ["a", "b"])
    FORMS[form](paths[1], x, ["u", "v", "w"])
    task = FilesTask(*paths)
    for got, expected in zip(
        task.stored_pairs("train", 3, slice(0, 9)),
        DataTask(theta, x).stored_pairs("train", 3, slice(0, 9)),
        strict=True,
    ):
        assert torch.equal(got, expected)
    named = form in ("csv", "parquet")
    assert task.theta_names == (["a", "b"] if named else ["theta_1", "theta_2"])
    assert task.x_names == (["u", "v", "w"] if named else ["x_1", "x_2", "x_3"])
    assert task.name == f"x.{form}"


@pytest.mark.skipif(NO_PARQUET, reason="pandas has no engine for parquet here")
def test_columns_of_parquet_need_no_names(tmp_path):
    pd.DataFrame(arrays()[1]).to_parquet(tmp_path / "pairs.parquet")
    assert FilesTask(*[tmp_path / "pairs.parquet"] * 2).x_names == ["x_1", "x_2", "x_3"]


def test_one_npz_file_may_hold_both(tmp_path):
    theta, x = arrays()
    path = tmp_path / "both.npz"
    np.savez(path, theta=theta[:, 0], x=x)
    task = FilesTask(path, path)
    assert (task.dim_theta, task.dim_x) == (1, 3)
    np.savez(path, a=theta, b=x)
    with pytest.raises(
        ConfigError, match=r"both\.npz' holds the arrays a, b: call one of them theta"
    ):
        FilesTask(path, path)


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def write(path, content):
    if isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", np.zeros((99, 3)), r"theta\.npy has the shape \(100, 2\) and .*\(99, 3\)"),
        ("x.npy", np.zeros((100, 3), complex), r"x\.npy' holds complex128 of shape \(100, 3\)"),
        ("x.npy", np.zeros((100, 0)), r"holds float64 of shape \(100, 0\)"),
        ("x.npy", pickle.dumps(Evil()), r"x\.npy' cannot be read: .*pickled"),
        ("x.npz", b"no zip", r"x\.npz' cannot be read"),
        ("x.csv", b"1,2\n3,4\n5,6\n", r"x\.csv' has the numbers 1, 2 in its first line"),
        ("x.csv", b"a,b\n3,x\n5,6\n", r"x\.csv': its column 'b' holds (object|str)"),
        ("x.csv", b"", r"x\.csv' cannot be read"),
        ("x.mat", b"", r"task\.x='.*x\.mat' .* one of \.npy, \.npz, \.csv, \.parquet"),
    ],
)
def test_files_that_hold_something_else_are_named(name, content, message, tmp_path):
    np.save(tmp_path / "theta.npy", arrays()[0])
    write(tmp_path / name, content)
    with pytest.raises(ConfigError, match=message) as error:
        FilesTask(tmp_path / "theta.npy", tmp_path / name)
    assert "\n" not in str(error.value)


def test_arrays_of_objects_are_not_unpickled(tmp_path):
    np.save(tmp_path / "x.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError, match=r"cannot be read: .*Python objects"):
        FilesTask(tmp_path / "x.npy", tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": [0, 0], "high": [1, 1]}, r"beyond\.$"),
        ({"low": [-1], "high": [1]}, r"task\.low=\[-1\] .* list of 2 numbers"),
        ({"low": [-1, -1]}, r"task\.high=None"),
        ({"prior": "uniform"}, r"task\.low=None"),
        ({"validation": 0.5, "test": 0.5}, "leave some for training"),
        ({"x_names": ["a"]}, "3 different names"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ConfigError, match=message):
        DataTask(*arrays(), **settings)


def test_the_content_of_the_files_is_the_identity(tmp_path):
    theta, x = arrays()

    def key(folder, x):
        folder.mkdir(exist_ok=True)
        np.save(folder / "theta.npy", theta)
        np.save(folder / "x.npy", x)
        node = {"theta": str(folder / "theta.npy"), "x": str(folder / "x.npy")}
        return content_key(describe({"_target_": "robust_npe.tasks.FilesTask", **node}, "t", Task))

    first = key(tmp_path / "a", x)
    assert key(tmp_path / "b", x) == first
    assert key(tmp_path / "a", x + 1e-9) != first


def test_an_embedding_of_sets_is_trained_from_python():
    generator = np.random.default_rng(0)
    theta = generator.normal(size=(1500, 1))
    x = theta[:, None] + generator.normal(size=(1500, 8, 1))
    task = DataTask(theta, x, iid=True)
    settings = TrainingSettings(max_epochs=15, min_epochs=1)
    q = rn.train(task, FullGaussian, num_simulations=1200, settings=settings)
    test_theta, test_x = task.stored_pairs("test", 0, slice(0, 100))
    with draws_from(stream(0)):
        order = torch.randperm(8)
    with torch.no_grad():
        gain = q(test_x).log_prob(test_theta).mean() + 0.5 * np.log(2 * np.pi) + 0.5
        torch.testing.assert_close(q(test_x).base.mean, q(test_x[:, order]).base.mean)
    assert 0.5 < float(gain) < 0.5 * np.log(9) + 0.3  # mutual information: log(1 + 8) / 2
