"""The exit status of a process is that of its work, whenever a signal comes."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from robust_npe.interruption import STATUS, Terminated, interruptible

PROCESS = """
import atexit, signal, sys
from robust_npe.interruption import end_with_status_of, interruptible
from robust_npe.cli import fail

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells switch it off in the background
hit = lambda: signal.raise_signal(signal.{name})

class Late:
    def __del__(self):
        hit()

def work():
    {work}

end_with_status_of(work)
"""
WORK = {
    "before": "hit(); return 3",
    "in text that is executed": """
    try:
        with interruptible():
            exec("hit()")  # Python remembers it, whoever catches the exception
    except KeyboardInterrupt as error:
        return 143 if type(error) is not KeyboardInterrupt else 130
    """,
}
LATER = {
    "in an exit handler": "atexit.register(hit); return 3",
    "when modules are taken down": "global late; late = Late(); return 3",
}


@pytest.fixture
def run(tmp_path):
    def run(work, name="SIGINT"):
        (tmp_path / "process.py").write_text(PROCESS.format(name=name, work=work))
        words = [sys.executable, "-m", "process"]
        return subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)

    return run


@pytest.mark.parametrize("number", STATUS, ids=lambda n: n.name)
@pytest.mark.parametrize("when", WORK)
def test_a_signal_during_work_gives_its_status(when, number, run):
    assert run(WORK[when], number.name).returncode == STATUS[number]


@pytest.mark.parametrize("number", STATUS, ids=lambda n: n.name)
@pytest.mark.parametrize("when", LATER)
def test_a_signal_after_work_changes_no_status(when, number, run):
    assert run(LATER[when], number.name).returncode == 3


def test_an_end_without_signals_is_as_usual(run):
    done = run("atexit.register(print, 'cleared up'); sys.stdout.write('told '); return 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "told cleared up\n", "")
    done = run("raise RuntimeError('unexpected')")
    assert done.returncode == 1
    assert "RuntimeError: unexpected" in done.stderr


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_an_interruption_that_libraries_lose_or_replace_is_raised_at_the_end(number, kind):
    def lost():
        try:
            signal.raise_signal(number)
        except BaseException:  # noqa: BLE001
            return

    def replaced():
        try:
            signal.raise_signal(number)
        finally:
            {}["key"]

    for library in (lost, replaced):
        with pytest.raises(kind) as raised, interruptible():
            library()
        assert raised.type is kind
    with pytest.raises(KeyError), interruptible():
        {}["key"]
