from __future__ import annotations

import runpy
from pathlib import Path

import pandas as pd
import pytest

from robust_npe.commands import train
from robust_npe.store import RESULT_COLUMNS, Store, StoreError, write_table
from tests.plotting.tables import coverages, divergences, row, table
from tests.test_config import composed

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SCRIPTS = Path(__file__).parents[2] / "scripts"


def script(name):
    return runpy.run_path(str(SCRIPTS / name))


def add_run(root, name, rows):
    """Store a run with these rows and return the path of its table."""

    def make(folder):
        complete = table(rows).assign(run_id=name, epsilon_abs=1.0)
        write_table(complete, folder / "results.csv", RESULT_COLUMNS)

    return Store(root).get("runs", {"name": name}, make).path / "results.csv"


def figures(monkeypatch, root):
    monkeypatch.setattr("sys.argv", ["figures.py", str(root)])
    return script("overview.py")["main"]()


def test_figures_draws_what_is_undamaged_and_measured(tmp_path, monkeypatch, capsys, caplog):
    add_run(tmp_path, "a", [*divergences(1.0), *coverages(1.0, 0.0)])
    add_run(tmp_path, "b", coverages(2.0, 0.5, defense="fim"))
    add_run(tmp_path, "c", divergences(2.0)).write_text("what is this")
    assert figures(monkeypatch, tmp_path) == 0
    drawn = {str(path) for path in (tmp_path / "figures").iterdir()}
    assert set(capsys.readouterr().out.split()) == drawn
    assert len(drawn) == 4  # two for a, one for b, one for both
    damaged, missing = caplog.messages
    assert "does not match its checksum" in damaged
    assert "kl_forward" in missing
    assert not any("\n" in message for message in caplog.messages)


@pytest.mark.parametrize("damaged", [False, True])
def test_figures_of_no_runs_is_one_line(tmp_path, monkeypatch, capsys, damaged):
    if damaged:
        add_run(tmp_path, "c", divergences(2.0)).write_text("what is this")
    assert figures(monkeypatch, tmp_path) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert ("can be read" if damaged else "robust-npe train") in message
    assert not (tmp_path / "figures").exists()


def pyloric_runs(*runs):
    return pd.DataFrame([row(task="pyloric", **run) | {"run_id": i} for i, run in enumerate(runs)])


def test_figure6_takes_the_newest_runs_with_equal_settings(capsys):
    newest_runs = script("figure6.py")["newest_runs"]
    small, data = {"num_simulations": 9}, {"data_seed": 1}
    fim = {"defense": "fim", "beta": 100.0}
    runs = pyloric_runs(fim, {}, fim, {}, fim | small, fim | data, fim | {"domain": "none"})
    assert newest_runs(runs) == {"none": 3, "fim": 2}
    assert capsys.readouterr().err == ""
    assert newest_runs(pyloric_runs(fim, small)) == {"none": 1}
    assert "without FIM" in capsys.readouterr().err
    with pytest.raises(StoreError, match="experiment=figure6"):
        newest_runs(pyloric_runs(fim))


def test_figure6_without_runs_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["figure6.py", "--output", str(tmp_path)])
    assert script("figure6.py")["main"]() == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_figure6_attacks_nothing_again(tmp_path, monkeypatch, capsys):
    train.main(composed("experiment=figure6/smoke", f"output_dir={tmp_path}", "plots=false"))
    stored = {path: path.stat().st_mtime_ns for path in tmp_path.glob("store/*/*")}
    monkeypatch.setattr("sys.argv", ["figure6.py", "--output", str(tmp_path)])
    assert script("figure6.py")["main"]() == 0
    assert "figure6.png: observation" in capsys.readouterr().out
    assert (tmp_path / "figures" / "figure6.png").stat().st_size > 10_000
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("store/*/*")} == stored
