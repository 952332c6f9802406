from __future__ import annotations

import json
import os
import shutil

import pytest

from robust_npe.store import RESULT_COLUMNS, Store, StoreError, collect, collect_readable, finished
from robust_npe.store.results import write_table
from tests.store.test_results import ROW


def add_run(root, name, description=None, created=None):
    """Store a run that is called `name` in the table, and return its folder."""

    def make(folder):
        write_table([{**ROW, "run_id": name}], folder / "results.csv", RESULT_COLUMNS)

    folder = Store(root).get("runs", {"name": name, **(description or {})}, make).path
    if created:
        path = folder / "manifest.json"
        forged = {"created": created, "manifest_sha256": None}
        path.write_text(json.dumps({**json.loads(path.read_text()), **forged}))
    return folder


def test_gathers_finished_runs_only(tmp_path):
    add_run(tmp_path, "a", created="2026-02")
    add_run(tmp_path, "b", created="2026-01")
    for suffix in (".partial", ".damaged-1"):
        add_run(tmp_path, "c").rename(tmp_path / "runs" / f"c{suffix}")
    (tmp_path / "runs" / "notes").mkdir()
    table, problems = collect_readable(tmp_path / "runs")
    assert list(table.run_id) == ["b", "a"]  # newest last
    assert not problems


def test_without_runs_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `robust-npe train` first"):
        collect(tmp_path / "runs")


def task(name, *version):
    return {"task": {"class": name, "version": list(version), "settings": [{"class": "Net"}]}}


@pytest.mark.parametrize(
    ("runs", "kept", "why"),
    [
        ({"a": task("GL", 1), "b": task("GL", 2), "c": task("SIR", 1)}, "bc", "GL"),
        ({"a": task("GL", 1, 2), "b": task("GL", 2, 1), "c": task("GL", 2, 2)}, "c", "GL"),
        ({"a": {"format": 4}, "b": task("GL", 1), "c": {}}, "bc", "the layout of runs"),
        ({"a": {"format": 3}, "b": {"format": 4}, "c": {}}, "c", "the layout of runs"),
        ({"a": {"x": [[task("GL", 1)]]}, "b": {"x": task("GL", 3)}}, "b", "GL"),
    ],
)
def test_runs_of_older_versions_are_left_out(tmp_path, caplog, runs, kept, why):
    for name, description in runs.items():
        add_run(tmp_path, name, description)
    table, problems = collect_readable(tmp_path / "runs")
    assert "".join(sorted(table.run_id)) == kept
    assert not problems
    assert len(caplog.records) == 1
    assert f"left out {len(runs) - len(kept)} runs" in caplog.text
    assert f"(changed since: {why})" in caplog.text


def test_a_folder_of_older_runs_alone_says_so(tmp_path):
    add_run(tmp_path, "a", {"format": 4})
    with pytest.raises(StoreError, match="can be read: an older version made them"):
        collect(tmp_path / "runs")


def test_copies_of_a_run_are_counted_once(tmp_path):
    run = add_run(tmp_path, "a")
    shutil.copytree(run, run.with_name("copy"))
    table, (problem,) = collect_readable(tmp_path / "runs")
    assert len(table) == 1
    assert "is a copy of run" in problem


def test_equal_versions_are_kept(tmp_path, caplog):
    for name in "ab":
        add_run(tmp_path, name, task("GL", 1, 1))
    assert len(collect(tmp_path / "runs")) == 2
    assert not caplog.records


DAMAGE = {
    "edited": lambda run: (run / "results.csv").write_text(
        (run / "results.csv").read_text().replace("0.333", "0.444")
    ),
    "cut off": lambda run: os.truncate(run / "results.csv", 100),
    "missing": lambda run: (run / "results.csv").unlink(),
    "a link": lambda run: (
        (run / "results.csv").rename(run.parent / "x.csv"),
        (run / "results.csv").symlink_to(run.parent / "x.csv"),
    ),
    "no manifest": lambda run: (run / "manifest.json").unlink(),
    "empty manifest": lambda run: (run / "manifest.json").write_text(""),
    "nested manifest": lambda run: (run / "manifest.json").write_text('{"a":' * 10**5),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_runs_are_named_and_skipped(tmp_path, caplog, damage):
    add_run(tmp_path, "a")
    bad = add_run(tmp_path, "b")
    damage(bad)
    table, problems = collect_readable(tmp_path / "runs")
    assert list(table.run_id) == ["a"]
    assert len(problems) == 1
    assert str(bad) in problems[0]
    assert list(collect(tmp_path / "runs").run_id) == ["a"]
    assert f"skipped a run: {problems[0]}" in caplog.text


def test_nothing_but_damaged_runs_is_an_error(tmp_path):
    (add_run(tmp_path, "a") / "manifest.json").write_text("")
    with pytest.raises(StoreError, match=r"No run in .* can be read"):
        collect(tmp_path / "runs")


def test_runs_with_other_columns_are_named(tmp_path):
    add_run(tmp_path, "a")

    def make(folder):
        (folder / "results.csv").write_text("x\n1\n")

    other = Store(tmp_path).get("runs", {"other": 1}, make).path
    table, problems = collect_readable(tmp_path / "runs")
    assert list(table.run_id) == ["a"]
    assert "missing columns" in problems[0]
    assert str(other) in problems[0]
    assert len(finished(tmp_path / "runs")) == 2
