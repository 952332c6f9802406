from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from robust_npe.store import RESULT_COLUMNS, Store, write_table
from tests.plotting.tables import coverages, divergences, table

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
