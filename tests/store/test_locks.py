"""Locks of the living, the dead, and of other machines."""

import os
import signal
import subprocess
import sys
import time

import pytest

from robust_npe.files import StoreError
from robust_npe.store.locks import InUseError, locked

LEASE = 1.5
ELSEWHERE = """
import socket, sys, time
socket.gethostname = lambda: "elsewhere"  # whose flock is not seen here, on some file systems
from filelock import SoftFileLease
lease = SoftFileLease(sys.argv[1], lease_duration=float(sys.argv[2]))
lease.acquire()
print("held", flush=True)
time.sleep(60)
"""
HERE = """
import sys, time
from pathlib import Path
from robust_npe.store.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder():
    """Starts a process that holds a lock, and ends it."""
    started = []

    def start(*words):
        process = subprocess.Popen(
            [sys.executable, "-c", *words], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(10)
        process.stdout.close()


def seconds_until_held(path, **settings):
    start = time.monotonic()
    with locked(path, waiting=lambda: None, **settings):
        return time.monotonic() - start


def test_one_process_at_a_time_and_the_next_at_once_when_it_is_killed(holder, tmp_path):
    path = tmp_path / "locks" / "a.lock"
    process = holder(HERE, str(path))
    with pytest.raises(InUseError), locked(path):
        pass
    process.kill()
    process.wait(10)
    assert path.with_suffix(".lease").exists()  # nobody took it away
    assert seconds_until_held(path) < 5


def test_another_machine_is_waited_for_while_it_gives_signs_of_life(holder, tmp_path):
    path = tmp_path / "a.lock"
    process = holder(ELSEWHERE, str(path.with_suffix(".lease")), str(LEASE))
    for _ in range(2):
        with pytest.raises(InUseError), locked(path, lease=LEASE):
            pass
        time.sleep(LEASE)
    os.kill(process.pid, signal.SIGSTOP)
    assert 0.5 * LEASE < seconds_until_held(path, lease=LEASE) < 10 * LEASE


def test_who_was_taken_for_dead_is_told(tmp_path):
    path = tmp_path / "a.lock"
    with locked(path, lease=0.6) as check:
        check()
        path.with_suffix(".lease").unlink()  # as another machine does after a while
        time.sleep(1.5)  # some heartbeats
        with pytest.raises(StoreError, match=r"a\.lock: another machine went on with this"):
            check()
