"""Disks that damage, fill up or refuse: nothing is silently used, and nothing is a dead end."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from robust_npe import cli
from robust_npe.store import Store
from tests.faults import CLASSIFIER, RESULTS, SMALL

WORDS = {
    "training": ("train", *SMALL, "epsilon=1"),
    "inference": ("train", *CLASSIFIER, "inference=hmc", "inference.warm_up=5"),
}
KINDS = {
    "simulations": "theta.npy",
    "estimators": "weights.safetensors",
    "attacks": "x_adv.npy",
    "runs": "results.csv",
}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "bit-flipped": flip,
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for the logs
    monkeypatch.setattr("sys.argv", ["robust-npe"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")


@pytest.fixture(scope="module", params=WORDS)
def words(request):
    return WORDS[request.param]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    assert cli.main([*words, f"output_dir={output}"]) == 0
    return output


def results(output):
    return {p.name: p.read_bytes() for name in RESULTS for p in output.glob(f"**/{name}")}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_artefacts_of_every_kind_are_set_aside_and_made_again(
    damage, words, whole, tmp_path, capsys
):
    output = tmp_path / "output"
    shutil.copytree(whole, output)
    damaged = {kind: next(output.glob(f"**/{kind}/*/{name}")) for kind, name in KINDS.items()}
    for path in damaged.values():
        damage(path)
    assert cli.main([*words, f"output_dir={output}"]) == 0
    said = capsys.readouterr().err
    for path in damaged.values():
        aside = path.parent.with_name(f"{path.parent.name}.damaged-1")
        assert aside.is_dir()
        assert f"set aside as {aside.name}, to be made again: {path} does not match" in said
        shutil.rmtree(aside)
    assert results(output) == results(whole)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, and a function that changes its options."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]
    mounted = sys.platform == "linux" and shutil.which("mount")
    if not mounted or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")

    def remount(options):
        subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)

    yield place, remount
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_disk_is_named_and_room_is_all_it_takes(small_disk, words, whole, capsys):
    place, remount = small_disk
    ballast = place / "ballast"
    ballast.write_bytes(bytes(2**20 - 2**16))
    assert cli.main([*words, f"output_dir={place}/out"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert str(place) in message
    assert "No space left on device" in message or "are free" in message
    remount("size=50m")
    assert cli.main([*words, f"output_dir={place}/out"]) == 0
    assert results(place / "out") == results(whole)


def test_a_disk_that_cannot_be_written_is_named_and_what_it_holds_is_found(
    small_disk, words, whole, capsys
):
    place, remount = small_disk
    remount("size=50m")
    shutil.copytree(whole, place / "out")
    remount("ro")
    assert cli.main([*words, f"output_dir={place}/out"]) == 0
    assert "nothing to compute" in capsys.readouterr().err
    assert cli.main([*words, f"output_dir={place}/out", "seed=1"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "Read-only file system" in message
    assert "output_dir" in message


def test_nobody_waits_for_the_lock_of_a_dead_process(tmp_path):
    def hang(folder):
        (folder / "begun").touch()
        signal.pause()

    def hold():
        Store(tmp_path).get("things", {}, hang)

    holder = multiprocessing.get_context("fork").Process(target=hold, daemon=True)
    holder.start()
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("things/*.partial/begun")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    started = time.monotonic()
    assert Store(tmp_path).get("things", {}, lambda folder: None).created
    assert time.monotonic() - started < 5


def test_clocks_that_jump_do_no_harm(tmp_path, monkeypatch):
    now = iter(range(0, 10**12, 10**9))
    monkeypatch.setattr(time, "time", lambda: float(next(now) * (-1) ** next(now)))
    store = Store(tmp_path)
    assert store.get("things", {}, lambda folder: None).created
    assert not store.get("things", {}, None).created
