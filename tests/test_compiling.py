"""Messages about kernels that have to be compiled."""

import logging
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from robust_npe import compiling
from robust_npe.compiling import log_compilation


class Kernel:
    """Behaves like a numba kernel that has to be compiled, or is loaded from the cache."""

    def __init__(self, cached):
        self.cached = cached
        self.signatures = []
        self.stats = SimpleNamespace(cache_misses=Counter())

    def __call__(self, x):
        if not self.signatures:
            time.sleep(0.1)  # before the cache is asked
            if not self.cached:
                self.stats.cache_misses["int"] += 1
            time.sleep(0.4)
        self.signatures.append("int")
        return x + 1


@pytest.fixture(autouse=True)
def impatient(monkeypatch, caplog):
    monkeypatch.setattr(compiling, "PATIENCE", 0.02)
    caplog.set_level(logging.INFO, logger="robust_npe")


def test_compilation_is_logged_once(caplog):
    function = log_compilation(Kernel(cached=False), "the kernel")
    assert function(1) == 2
    assert [r.getMessage()[:20] for r in caplog.records] == [
        "preparing the kernel",
        "the kernel: ready af",
    ]
    caplog.clear()
    assert function(2) == 3
    assert not caplog.text


def test_a_kernel_from_the_cache_is_not_log_compilation(caplog):
    assert log_compilation(Kernel(cached=True), "the kernel")(1) == 2
    assert not caplog.text


def test_kernels_that_a_function_calls_are_watched(caplog):
    kernel = Kernel(cached=False)
    assert log_compilation(lambda x: 2 * kernel(x), "the result", kernel)(1) == 4
    assert "preparing the result" in caplog.text


def test_an_error_leaves_no_message_behind(caplog):
    class Broken(Kernel):
        def __call__(self, x):
            raise ValueError(x)

    with pytest.raises(ValueError, match="3"):
        log_compilation(Broken(cached=True), "the kernel")(3)
    time.sleep(0.03)
    assert not caplog.text


def test_changes_in_other_files_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(compiling.__file__).parents[1]))
    part = "from numba import njit\n\n@njit(cache=True)\ndef value():\n    return {}\n"
    (tmp_path / "whole.py").write_text(
        "from numba import njit\nimport part\n"
        "from robust_npe.compiling import watch_sources\n\n"
        "@njit(cache=True)\ndef twice():\n    return 2 * part.value()\n\n"
        "watch_sources(twice, part)\n"
        "print(twice(), sum(twice.stats.cache_hits.values()))\n"
    )
    printed = []
    for value in (1, 1, 2):
        (tmp_path / "part.py").write_text(part.format(value))
        process = subprocess.run(
            [sys.executable, "whole.py"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        printed.append(process.stdout.split())
    assert printed == [["2", "0"], ["2", "1"], ["4", "0"]]
