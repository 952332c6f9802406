from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from robust_npe.store import PARTS, CorruptArtefactError, Store, StoreError, content_key, finished
from tests.test_files import plant


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
    assert not list((tmp_path / "things").iterdir())
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


def test_resumable_build_that_made_nothing_leaves_nothing(tmp_path):
    def fail(folder: Path):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        Store(tmp_path).get("things", {}, fail, resumable=True)
    assert not list((tmp_path / "things").iterdir())


def make_from_parts(folder: Path):
    (folder / PARTS).mkdir(exist_ok=True)
    for name in "abc":
        (folder / PARTS / name).write_text(name)
    (folder / "file.txt").write_text("abc")


@pytest.mark.parametrize("step", ["unlink", "rmdir", "rename"])
def test_build_that_was_complete_is_not_repeated(tmp_path, monkeypatch, step):
    # killed between the manifest and the last of the parts, or before the folder had its name
    store = Store(tmp_path)
    with monkeypatch.context() as patched:
        if step == "rename":
            _interrupt(patched, Path, "replace", lambda path, to: path.suffix == ".partial")
        else:
            _interrupt(patched, os, step, lambda path, **_: Path(path).name in ("b", PARTS))
        with pytest.raises(KeyboardInterrupt):
            store.get("things", {}, make_from_parts, resumable=True)
    artefact = store.get("things", {}, None, resumable=True)
    assert {p.name for p in artefact.verify().path.iterdir()} == {"file.txt", "manifest.json"}
    assert set(artefact.manifest["sha256"]) == {"file.txt"}


def _interrupt(patched, where, name, when):
    whole = getattr(where, name)

    def interrupted(*args, **options):
        if when(*args, **options):
            raise KeyboardInterrupt
        return whole(*args, **options)

    patched.setattr(where, name, interrupted)


def test_leftovers_of_writing_do_not_become_part_of_an_artefact(tmp_path):
    store = Store(tmp_path)

    def interrupted(folder: Path):
        (folder / ".file.txt.1-abcd.new").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get("things", {}, interrupted, resumable=True)
    artefact = store.get("things", {}, write("one"), resumable=True)
    assert set(artefact.manifest["sha256"]) == {"file.txt"}


def test_damage_is_noticed(tmp_path):
    artefact = Store(tmp_path).get("things", {}, write("one"))
    artefact.verify("file.txt")
    with pytest.raises(CorruptArtefactError, match=r"other\.txt does not match its checksum"):
        artefact.verify("other.txt")
    (artefact.path / "file.txt").write_text("three")
    with pytest.raises(CorruptArtefactError, match=r"file\.txt does not match its checksum"):
        artefact.verify()


def test_files_are_read_once(tmp_path, monkeypatch):
    artefact = Store(tmp_path).get("things", {}, write("one"))
    monkeypatch.setattr(hashlib, "file_digest", None)  # calling it would fail
    assert not Store(tmp_path).get("things", {}, None).verify().created
    assert artefact.manifest["sha256"]["file.txt"] == hashlib.sha256(b"one").hexdigest()


DAMAGE = {
    "file changed": lambda folder: (folder / "file.txt").write_text("other"),
    "file missing": lambda folder: (folder / "file.txt").unlink(),
    "manifest missing": lambda folder: (folder / "manifest.json").unlink(),
    "manifest empty": lambda folder: (folder / "manifest.json").write_text(""),
    "manifest cut off": lambda folder: os.truncate(folder / "manifest.json", 100),
    "manifest of something else": lambda folder: (folder / "manifest.json").write_text("[1]"),
    "manifest nested": lambda folder: (folder / "manifest.json").write_text("[" * 10**6),
    "no checksums": lambda folder: (folder / "manifest.json").write_text('{"sha256": 1}'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_artefacts_are_set_aside_and_made_again_once(tmp_path, caplog, damage):
    store = Store(tmp_path)
    for n in (1, 2):
        folder = store.get("things", {}, write("one")).path
        damage(folder)
        before = {p.name: p.read_bytes() for p in folder.iterdir()}
        assert store.find("things", folder.name) is None
        caplog.clear()
        again = store.get("things", {}, write("one"))
        assert again.created
        assert again.path == folder
        aside = folder.with_name(f"{folder.name}.damaged-{n}")
        assert {p.name: p.read_bytes() for p in aside.iterdir()} == before
        assert [r.levelname for r in caplog.records] == ["WARNING"]
        assert f"set aside as {aside.name}" in caplog.text
    assert not store.get("things", {}, None).created
    assert [a.path for a in finished(tmp_path / "things")] == [folder]


def test_locks_do_not_lie_among_artefacts(tmp_path):
    artefact = Store(tmp_path).get("things", {}, write("one"))
    assert list((tmp_path / "things").iterdir()) == [artefact.path]
    assert {p.name for p in tmp_path.iterdir()} == {"things", "locks"}


@pytest.mark.parametrize(
    "where",
    [
        "things",
        "locks",
        "things/KEY",
        "things/KEY.partial",
        "locks/things-KEY.lock",
        "locks/things-KEY.lease",
        "things/KEY.partial/file.txt",
        "things/KEY.partial/parts",
        "things/KEY/file.txt",
        "things/KEY/manifest.json",
    ],
)
def test_planted_links_are_not_followed(tmp_path, where):
    root, outside, key = tmp_path / "store", tmp_path / "outside", content_key({})
    planted = root / where.replace("KEY", key)
    is_file = planted.suffix in (".txt", ".lock", ".lease", ".json")
    if "KEY/" in where:
        Store(root).get("things", {}, write("one"))
        planted.replace(outside)
    elif is_file:
        outside.write_text("kept")
    else:
        outside.mkdir()
        (outside / "file.txt").write_text("kept")
    before = _content(outside)
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.symlink_to(outside)
    with pytest.raises(StoreError, match=f"{planted} .*link.*remove it"):
        Store(root).get("things", {}, write("two"), resumable=True)
    assert planted.is_symlink()
    assert _content(outside) == before


def _content(path):
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {str(p): p.read_bytes() for p in files}


def test_the_root_itself_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    assert Store(tmp_path / "store").get("things", {}, write("one")).created
    assert not Store(tmp_path / "disk").get("things", {}, None).created


@pytest.mark.parametrize("kind", ["link", "pipe", "huge"])
def test_hostile_manifests_are_refused(tmp_path, kind):
    manifest = Store(tmp_path).get("things", {}, write("one")).path / "manifest.json"
    manifest.unlink()
    plant(manifest, kind)
    with pytest.raises(StoreError, match=f"{manifest} .*remove it"):
        Store(tmp_path).get("things", {}, write("two"))


def test_a_manifest_that_was_changed_is_set_aside(tmp_path):
    store = Store(tmp_path)
    path = store.get("things", {"a": 1}, write("one")).path / "manifest.json"
    text = path.read_text()
    for old, new in (('"length": 3', '"length": 4'), ('"a": 1', '"a": 2'), ('"host', '"hast')):
        assert old in text
        path.write_text(text.replace(old, new, 1))
        assert store.find("things", path.parent.name) is None
    again = store.get("things", {"a": 1}, write("one"))
    assert again.created
    assert again.manifest["facts"] == {"length": 3}
    del (old := json.loads(text))["manifest_sha256"]  # as of older versions
    path.write_text(json.dumps(old))
    assert not store.get("things", {"a": 1}, write("one")).created


@pytest.mark.parametrize("name", ["/etc/hostname", "../../other"])
def test_manifests_name_files_of_their_own_only(tmp_path, name):
    manifest = Store(tmp_path).get("things", {}, write("one")).path / "manifest.json"
    content = json.loads(manifest.read_text())
    forged = {"sha256": {name: "0"}, "manifest_sha256": None}
    manifest.write_text(json.dumps({**content, **forged}))
    with pytest.raises(StoreError, match="lies outside"):
        Store(tmp_path).get("things", {}, write("two"))


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/locks.*Not a directory.*another output_dir"):
        Store(tmp_path / "file").get("things", {}, write("one"))


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
