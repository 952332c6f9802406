from __future__ import annotations

import pytest

from robust_npe import cli
from robust_npe.store import read_table
from tests.store.test_collecting import add_run

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_all_runs_are_written(tmp_path, capsys):
    add_run(tmp_path / "outputs", "a")
    add_run(tmp_path / "outputs", "b")
    assert cli.main(["collect", "to=new/all.csv"]) == 0
    assert "2 runs, 2 rows: new/all.csv" in capsys.readouterr().out
    assert sorted(read_table(tmp_path / "new" / "all.csv").run_id) == ["a", "b"]


def test_status_1_where_runs_were_left_out(tmp_path, capsys):
    add_run(tmp_path / "outputs", "a")
    bad = add_run(tmp_path / "outputs", "b") / "results.csv"
    bad.write_text(bad.read_text().replace("100", "101"))
    assert cli.main(["collect"]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "1 runs, 1 rows: outputs/results.csv; left out 1: " in message
    assert f"runs/{bad.parent.name}/results.csv does not match its checksum" in message
    assert list(read_table(tmp_path / "outputs" / "results.csv").run_id) == ["a"]


def test_status_2_where_nothing_can_be_read(tmp_path, capsys):
    (add_run(tmp_path / "outputs", "a") / "manifest.json").write_text("{")
    assert cli.main(["collect"]) == 2
    assert "No run in outputs/runs can be read" in capsys.readouterr().err
    assert not (tmp_path / "outputs" / "results.csv").exists()


@pytest.mark.parametrize("words", [["list"], ["collect"], ["pareto"], ["compare", "run=a,b"]])
def test_a_question_leaves_nothing_behind(elsewhere, words, capsys):
    cli.main([*words, "output_dir=mistyped"])
    assert "mistyped" in "".join(capsys.readouterr())
    assert list(elsewhere.iterdir()) == []
