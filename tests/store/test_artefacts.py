from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

import pytest

from robust_npe.store import CorruptArtefactError, Store, content_key


def write(text):
    def make(folder: Path):
        (folder / "file.txt").write_text(text)
        return {"length": len(text)}

    return make


def test_is_made_once(tmp_path):
    store = Store(tmp_path)
    first = store.get("things", {"a": 1}, write("one"))
    second = store.get("things", {"a": 1}, write("two"))
    assert first.created
    assert not second.created
    assert (second.path / "file.txt").read_text() == "one"
    assert store.get("things", {"a": 2}, write("two")).path != first.path


def test_key_depends_on_content_not_on_order():
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 1.5})


def test_manifest_says_what_and_how(tmp_path):
    artefact = Store(tmp_path).get("things", {"a": 1}, write("one"))
    manifest = artefact.manifest
    assert manifest["description"] == {"a": 1}
    assert manifest["facts"] == {"length": 3}
    assert set(manifest["sha256"]) == {"file.txt"}
    assert manifest["versions"]["torch"]
    for key in ("created", "seconds", "host", "git_revision"):
        assert key in manifest
    assert str(tmp_path) not in json.dumps(manifest)


def test_failed_build_leaves_nothing(tmp_path):
    store = Store(tmp_path)

    def fail(folder: Path):
        (folder / "half.txt").write_text("half")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        store.get("things", {"a": 1}, fail)
    assert store.find("things", content_key({"a": 1})) is None
    artefact = store.get("things", {"a": 1}, write("whole"))
    assert artefact.created
    assert not (artefact.path / "half.txt").exists()


def test_resumable_build_sees_what_was_left(tmp_path):
    store = Store(tmp_path)
    seen = []

    def make(folder: Path):
        seen.append((folder / "half.txt").exists())
        (folder / "half.txt").write_text("half")
        if len(seen) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get("things", {}, make, resumable=True)
    store.get("things", {}, make, resumable=True)
    assert seen == [False, True]


def test_damage_is_noticed(tmp_path):
    artefact = Store(tmp_path).get("things", {}, write("one"))
    artefact.verify()
    (artefact.path / "file.txt").write_text("two")
    with pytest.raises(CorruptArtefactError, match=r"file\.txt does not match its checksum"):
        artefact.verify()


def build_slowly(root: Path, log: Path):
    def make(folder: Path):
        with log.open("a") as file:
            file.write("made\n")
        (folder / "a.txt").write_text("a" * 1000)
        time.sleep(0.3)
        (folder / "b.txt").write_text("b" * 1000)

    Store(root).get("things", {"shared": True}, make).verify()


def test_processes_share_a_store(tmp_path):
    # whoever comes second waits for the first and makes nothing itself
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    args = (tmp_path / "store", log)
    processes = [context.Process(target=build_slowly, args=args) for _ in range(3)]
    for p in processes:
        p.start()
    for p in processes:
        p.join()
    assert [p.exitcode for p in processes] == [0, 0, 0]
    assert log.read_text() == "made\n"
