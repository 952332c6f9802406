"""Processes that are killed at random moments leave nothing broken behind.

    ROBUST_NPE_KILLS=200 pytest tests/test_faults.py     # or: make test-faults

A process is forked, so that all of its time is work, and not the import of packages.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from robust_npe.cli import main

KILLS = int(os.environ.get("ROBUST_NPE_KILLS", "12"))
JOB = [
    *("train", "task=sir", "defense=fim", "beta=0.01", "attack.steps=10", "epsilon=[0.2,0.5]"),
    *("num_simulations=800", "num_validation=100", "training.max_epochs=8", "plots=false"),
    *("evaluation.num_test=60", "evaluation.num_attacked=20", "training.checkpoint_every=0.05"),
    "metric=[nll,divergence]",
]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def start(folder, hurt=None):
    """Start the job in a process of its own."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, sys.stdout.fileno())
        os.dup2(os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        status = main([*JOB, f"output_dir={folder}"])
    finally:
        os._exit(status)


def end(process):
    """Wait for the end; exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def results(folder):
    """All that counts, by name."""
    patterns = ("runs/*/*.csv", "store/estimators/*/*.safetensors", "store/estimators/*/*.csv")
    files = [path for pattern in patterns for path in Path(folder).glob(pattern)]
    assert not list(Path(folder).rglob("*.partial*"))
    assert not list(Path(folder).rglob("*.damaged*"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("together", [1, 2])
def test_any_interruption_leaves_what_an_uninterrupted_run_makes(together, tmp_path, capfd):
    del capfd  # pytest's own files in place of the terminal
    begin = time.monotonic()
    assert end(start(tmp_path / "whole")) == 0
    longest = time.monotonic() - begin
    expected = results(tmp_path / "whole")
    assert len(expected) == 4
    chance, kills, attempt = random.Random(together), 0, 0
    while kills < KILLS / 2:
        folder = tmp_path / f"attempt{attempt}"
        survivors = [start(folder) for _ in range(together)]
        for process in list(survivors):
            time.sleep(chance.uniform(0, longest / 2))
            os.kill(process, signal.SIGKILL)
            if end(process) < 0:  # it had not ended by itself
                kills += 1
                survivors.remove(process)
        if survivors or chance.random() < 0.3:  # often it goes on from what several kills left
            assert end(start(folder)) == 0, Path(f"{folder}.log").read_text()
            assert results(folder) == expected
            attempt += 1
    assert end(start(folder)) == 0, Path(f"{folder}.log").read_text()
    assert results(folder) == expected
