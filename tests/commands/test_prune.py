from __future__ import annotations

import os
import time

import pandas as pd
import pytest
from filelock import FileLock

from robust_npe import cli
from robust_npe.store import Store

TASK = {"class": "GaussianLinear", "version": [1], "arguments": {}}


def add(root, kind, description, **facts):
    def make(folder):
        (folder / "data").write_bytes(b"0" * 1000)
        return facts

    return Store(root).get(kind, description, make)


@pytest.fixture
def stored(elsewhere):
    """A run with what it used, and a set of simulations that no run used."""
    seeds = {"data": 3, "evaluation": 4}
    store = elsewhere / "outputs" / "store"
    found = {
        name: add(store, "simulations", {"task": TASK, "split": "train", "seed": seed})
        for name, seed in (("used", 3), ("unused", 5))
    }
    network = {"class": "WeightEnsemble", "arguments": {"inference": {"class": "HMC"}}}
    estimator = {"task": TASK, "estimator": network, "defense": {"class": "FIM"}}
    found["estimator"] = add(store, "estimators", estimator)
    attack = {"task": TASK, "seeds": seeds, "attack": {"class": "PGD"}, "epsilon": 1.0}
    found["attack"] = add(store, "attacks", attack)
    found["other attack"] = add(store, "attacks", {**attack, "attack": {"class": "Noise"}})
    run = {"task": TASK, "seeds": seeds, "attack": {"class": "PGD"}, "epsilon": [1.0]}
    keys = [found["estimator"].key]
    found["run"] = add(elsewhere / "outputs", "runs", run, estimators=keys)
    return found


def remaining(stored):
    return {name for name, artefact in stored.items() if artefact.path.exists()}


def test_list_tells_what_runs_use(stored, capsys):
    assert cli.main(["list", "to=all.csv"]) == 0
    assert "6 artefacts" in capsys.readouterr().out
    table = pd.read_csv("all.csv", keep_default_na=False).set_index("key")
    run = stored["run"].key
    users = {name: table.runs[artefact.key] for name, artefact in stored.items()}
    unused = {"unused": "", "other attack": "", "run": ""}
    assert users == {"used": run, "estimator": run, "attack": run} | unused
    assert table.defense[stored["estimator"].key] == "FIM"
    assert table.estimator[stored["estimator"].key] == "WeightEnsemble(HMC)"
    assert (table["size"] > 1000).all()


def test_prune_shows_first_and_removes_what_no_run_uses(stored, capsys):
    assert cli.main(["prune", "unused=true"]) == 0
    assert "would remove 2 artefacts" in capsys.readouterr().out
    assert remaining(stored) == set(stored)
    assert cli.main(["prune", "unused=true", "kind=attacks", "delete=true"]) == 0
    assert remaining(stored) == set(stored) - {"other attack"}


def test_prune_by_age(stored):
    long_ago = time.time() - 10 * 86400
    for path in (stored["used"].path, *stored["used"].path.iterdir()):
        os.utime(path, (long_ago, long_ago))
    assert cli.main(["prune", "older_than=11", "delete=true"]) == 0
    assert remaining(stored) == set(stored)
    assert cli.main(["prune", "older_than=9", "delete=true"]) == 0
    assert remaining(stored) == set(stored) - {"used"}


def test_prune_unfinished(stored, capsys):
    path = stored["unused"].path
    partial = path.rename(path.with_name(f"{path.name}.partial"))
    lock = FileLock(path.parent.parent / "locks" / f"simulations-{path.name}.lock")
    with lock:  # as of a process that makes it
        assert cli.main(["prune", "unfinished=true", "delete=true"]) == 1
    assert "a process is working on it" in capsys.readouterr().err
    assert partial.exists()
    assert cli.main(["prune", "unfinished=true", "delete=true"]) == 0
    assert not partial.exists()
    assert remaining(stored) == set(stored) - {"unused"}


def test_what_a_running_command_uses_is_not_unused(stored, capsys, elsewhere):
    path = stored["run"].path
    path.rename(path.with_name(f"{path.name}.partial"))
    with FileLock(elsewhere / "outputs" / "locks" / f"runs-{path.name}.lock"):
        assert cli.main(["prune", "unused=true", "delete=true"]) == 2
    error = f"cannot be told while runs are being made ({path.name})"
    assert error in capsys.readouterr().err
    assert remaining(stored) == set(stored) - {"run"}
    assert cli.main(["prune", "unused=true", "delete=true"]) == 0  # it was interrupted


def test_prune_older_format(stored):
    newer = {**TASK, "version": [2]}
    kept = add("outputs/store", "simulations", {"task": newer, "split": "train", "seed": 3})
    assert cli.main(["prune", "older_format=true", "kind=simulations", "delete=true"]) == 0
    assert kept.path.exists()
    assert remaining(stored) == set(stored) - {"used", "unused"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "set one of kind, older_than"),
        (["kind=weights"], "one of attacks, estimators, runs, simulations"),
        (["older_than=-1"], "a number of days"),
    ],
)
def test_wrong_settings(words, message, stored, capsys):
    assert cli.main(["prune", "delete=true", *words]) == 2
    assert message in capsys.readouterr().err
    assert remaining(stored) == set(stored)


def flip(artefact, old, new):
    path = artefact.path / "manifest.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def test_what_is_unused_is_not_known_where_a_run_cannot_be_read(stored, capsys):
    flip(stored["run"], '"facts"', '"fbcts"')
    assert cli.main(["prune", "unused=true", "delete=true"]) == 2
    assert f"runs cannot be read (outputs/runs/{stored['run'].key})" in capsys.readouterr().err
    assert remaining(stored) == {*stored}
    assert cli.main(["prune", "damaged=true", "kind=runs", "delete=true"]) == 0
    assert remaining(stored) == {*stored} - {"run"}


def test_damaged_ones_are_removed_by_themselves(stored, capsys):
    flip(stored["unused"], '"split": "train"', '"split": "trbin"')
    aside = stored["used"].path.with_name("0123.damaged-1")
    aside.mkdir()
    (aside / "data").write_bytes(b"0")
    assert cli.main(["prune", "damaged=true", "delete=true"]) == 0
    assert "removed 2 artefacts" in capsys.readouterr().out
    assert remaining(stored) == {*stored} - {"unused"}
    assert not aside.exists()


def test_a_removal_that_was_killed_is_no_obstacle(stored):
    left = stored["attack"].path.with_name(f"{stored['attack'].key}.removed")
    (left / "x").mkdir(parents=True)
    assert cli.main(["prune", "kind=attacks", "delete=true"]) == 0
    assert not {"attack", "other attack"} & remaining(stored)
    assert not left.exists()


def test_any_age_is_a_condition(stored, capsys):
    assert cli.main(["prune", "older_than=0"]) == 0
    assert "would remove 6 artefacts" in capsys.readouterr().out
