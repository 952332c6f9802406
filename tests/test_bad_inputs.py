"""A table of bad inputs: one line, the right exit status, nothing half-written, no traceback."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from robust_npe import cli
from robust_npe.commands import train
from robust_npe.tasks import GaussianLinear
from tests.test_config import composed

SMALL = ("scale=smoke", "num_simulations=64", "training.max_epochs=1", "estimator=gaussian")
MEASURED = ("epsilon=1", "metric=[nll]", "plots=false")
RUN = ["train", *SMALL, *MEASURED]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setenv("ROBUST_NPE_MODULES", "")
    return tmp_path


def line(capsys, words, status=2):
    """Run the command line and return the one line with which it refuses."""
    assert cli.main(words) == status
    captured = capsys.readouterr()
    *before, last = captured.err.splitlines()
    assert last.startswith("robust-npe: ")
    assert "Traceback" not in captured.err
    assert not captured.out
    # what was done until then may be reported, e.g. that simulations were found
    assert all(info.startswith(("simulated", "found", "training", "trained")) for info in before)
    return last.removeprefix("robust-npe: ")


def table():
    lines = Path(__file__).with_name("bad_inputs.txt").read_text().splitlines()
    rows = [line.split(" -> ") for line in lines if line and not line.startswith("#")]
    assert len(rows) >= 60
    return [(words.split(), message) for words, message in rows]


@pytest.mark.parametrize(("words", "message"), table(), ids=str)
def test_refused_before_any_work(words, message, capsys, elsewhere):
    assert message in line(capsys, words)
    kinds = ("simulations", "estimators", "attacks")
    assert not [p for kind in kinds for p in elsewhere.rglob(f"{kind}/*")]
    assert not list(elsewhere.rglob("*.partial"))


def test_whole_floats_and_options_after_overrides_are_accepted(capsys, elsewhere):
    words = [*RUN, "num_simulations=6.4e1", "-m", "seed=0,1", "training.batch_size=5e1"]
    assert cli.main(words) == 0
    assert capsys.readouterr().out.count("defense none: NLL") == 2
    configs = list(elsewhere.glob("outputs/runs/*/config.yaml"))
    assert len(configs) == 2
    assert all("num_simulations: 64\n" in path.read_text() for path in configs)


@pytest.mark.parametrize("metric", ["[]", "[c2st,nll]", "[true_posterior]", "nll"])
def test_few_metrics_or_none(metric, capsys):
    assert cli.main([*RUN, f"metric={metric}", "plots=true"]) == 0
    text = capsys.readouterr().out
    empty = metric == "[]"
    assert ("nothing was measured" in text) == empty
    assert "nan" not in text
    assert "DataFrame" not in text


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("finished") / "outputs"
    train.main(composed(*SMALL, *MEASURED, f"output_dir={output}"))
    return output


@pytest.fixture
def outputs(finished, elsewhere):
    """A finished run; its folders of runs and estimators."""
    shutil.copytree(finished, elsewhere / "outputs")
    (run,) = (elsewhere / "outputs" / "runs").iterdir()
    (estimator,) = (elsewhere / "outputs" / "store" / "estimators").iterdir()
    return run, estimator


def empty(path):
    path.write_text("")


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def edit(path):
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))


def remove(path):
    path.unlink()


MANIFEST = [("manifest.json", damage) for damage in (empty, cut, remove)]


@pytest.mark.parametrize(
    ("name", "damage"),
    [*MANIFEST, ("results.csv", empty), ("results.csv", edit), ("config.yaml", remove)],
)
def test_damaged_runs(name, damage, outputs, capsys, elsewhere):
    run, _ = outputs
    damage(run / name)
    message = line(capsys, ["attack", f"run={run.name}", "attack=noise", "epsilon=1"])
    assert name in message or "was not found" in message
    assert run.name in line(capsys, ["collect"])  # none is left
    assert cli.main(RUN) == 0  # made again, once
    assert "NLL" in capsys.readouterr().out
    assert cli.main(RUN) == 0
    assert "nothing to compute" in capsys.readouterr().err
    assert len(list(elsewhere.glob(f"outputs/runs/{run.name}*"))) == 2


@pytest.mark.parametrize(
    ("name", "damage"),
    [*MANIFEST, ("weights.safetensors", cut), ("weights.safetensors", remove)],
)
def test_damaged_estimators(name, damage, outputs, capsys):
    run, estimator = outputs
    damage(estimator / name)
    words = ["attack", f"run={run.name}", "attack=noise", "epsilon=1"]
    assert "damaged" in line(capsys, words)
    assert cli.main([*RUN, "epsilon=2"]) == 0  # trained again
    capsys.readouterr()


def test_tables_with_other_columns(outputs, capsys):
    run, _ = outputs
    table = run / "results.csv"
    table.write_text(table.read_text().replace("task", "tusk", 1))
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["sha256"]["results.csv"], manifest["manifest_sha256"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert "results.csv" in line(capsys, ["collect"])


def test_simulations_of_which_none_is_finite(capsys, monkeypatch, elsewhere):
    def simulate(self, theta, generator):
        return theta.new_full((len(theta), self.dim_x), float("nan"))

    monkeypatch.setattr(GaussianLinear, "simulate", simulate)
    assert "All 64 simulations of task gaussian_linear are non-fini" in line(capsys, RUN)
    assert not list(elsewhere.rglob("*.partial"))


def test_trainings_that_diverge(capsys, elsewhere):
    message = line(capsys, [*RUN, "training.learning_rate=1e30"])
    assert "Try a smaller training.learning_rate." in message
    assert "beta" not in message
    assert not list(elsewhere.rglob("*.partial"))
    message = line(capsys, [*RUN, "defense=fim", "beta=1e30"])
    assert "Try a smaller training.learning_rate or beta." in message


def test_failed_runs_leave_no_parts(capsys, elsewhere):
    # clean observations are measured before the radius turns out to be too large
    assert "radius=inf" in line(capsys, [*RUN, "epsilon=1e300"])
    assert not list(elsewhere.rglob("*.partial"))


def test_memory_that_does_not_suffice(capsys, monkeypatch):
    def train_much(*args):
        raise MemoryError

    monkeypatch.setattr("robust_npe.commands.fitting.train", train_much)
    assert "not enough memory" in line(capsys, RUN)


def test_our_own_bugs_are_shown(monkeypatch):
    def train_wrongly(*args):
        raise RuntimeError("a bug")

    monkeypatch.setattr("robust_npe.commands.fitting.train", train_wrongly)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(RUN)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_disks_that_cannot_be_written(code, outputs, capsys, monkeypatch, elsewhere):
    """A finished run is shown all the same; for a new one there is one line."""
    mkdir, before = Path.mkdir, sorted(elsewhere.rglob("*"))

    def refuse(path, *args, **kwargs):
        if "outputs" not in path.parts:
            return mkdir(path, *args, **kwargs)
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert cli.main(RUN) == 0
    assert "found:" in capsys.readouterr().out
    assert os.strerror(code) in line(capsys, [*RUN, "seed=5"])
    assert sorted(elsewhere.rglob("*")) == before
