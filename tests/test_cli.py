from __future__ import annotations

import importlib.abc
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from hydra.errors import MissingConfigException

from robust_npe import cli
from robust_npe.completion import complete
from robust_npe.messages import hydra_message
from tests.helpers import conf_names

SMALL = ("scale=smoke", "num_simulations=64", "training.max_epochs=1", "estimator=gaussian")
SMALL += ("epsilon=1", "plots=false")


pytestmark = pytest.mark.usefixtures("elsewhere")


def fails(capsys, *words):
    assert cli.main(words) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--help"], ["help"]])
def test_help_lists_the_commands(words, capsys):
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in cli.COMMANDS)


def test_help_of_a_command(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--help"])
    assert not stop.value.code
    text = capsys.readouterr().out
    assert "lotka_volterra" in text
    assert "epsilon" in text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("robust-npe tr", {"train"}),
        ("robust-npe train task=lotka", {"lotka_volterra"}),
        ("robust-npe train task=sbibm/two", {"sbibm/two_moons"}),
        ("robust-npe train metric=[nll,cov", {"[nll,coverage"}),
        ("robust-npe --module x.py train bet", {"beta="}),
        ("robust-npe train see", {"seed=", "seeds."}),
        ("robust-npe train seeds.da", {"seeds.data="}),
        ("robust-npe train -m defense=fim defense.ro", {"defense.rows="}),
        ("robust-npe attack nu", set()),
        ("robust-npe audit audit.fl", {"audit.flow="}),
    ],
)
def test_completion(line, expected):
    # bash splits a line at blanks and at "="
    words = " ".join(f"'{w}'" for w in re.split(r"\s+|(?<==)|(?==)", line) if w)
    script = f"""
        robust-npe() {{ {sys.executable} -m robust_npe.cli "$@"; }}
        eval "$(robust-npe completion)"
        COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}
        _robust_npe; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected


def test_completion_of_a_prefix_lists_what_is_in_the_folder():
    found = complete(["train", "task=sb"], cli.COMMANDS)
    assert found == [f"task=sbibm/{name}" for name in conf_names("task/sbibm")]


def test_help_and_completion_import_next_to_nothing():
    code = """
import sys
from robust_npe import cli
cli.main(["--help"])
cli.main(["--complete", "train", "task=sb"])
print([m for m in ("torch", "numpy", "hydra", "omegaconf") if m in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_a_found_run_imports_no_more_than_it_needs(elsewhere):
    assert cli.main(["train", *SMALL]) == 0
    code = f"""
import sys
from robust_npe import cli
cli.main({["train", *SMALL]})
slow = ("sklearn", "scipy.stats", "emcee", "matplotlib", "seaborn")
print([m for m in slow if m in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "this run was done before: nothing to compute\n[]\n"


def test_results_that_nobody_reads(elsewhere):
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "robust_npe.cli", "train", *SMALL]
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert done.stderr.count("training on") == 1


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("robust-npe ")


def test_sbibm_that_is_not_installed(capsys, monkeypatch):
    monkeypatch.setattr("robust_npe.tasks.sbibm.find_spec", lambda name: None)
    message = fails(capsys, "train", "task=sbibm/two_moons")
    assert "pip install 'robust-npe[sbibm]'" in message


def test_launcher_that_is_not_installed():
    error = MissingConfigException("", missing_cfg_file="hydra/launcher/joblib")
    assert hydra_message(error) == (
        "hydra/launcher=cores needs the joblib launcher: pip install '.[cores]'."
    )


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("sweep", [[], ["-m"]])
@pytest.mark.usefixtures("interruptible")
def test_interruptions(number, status, sweep, capsys, monkeypatch, elsewhere):
    monkeypatch.setattr("robust_npe.commands.fitting.train", lambda *_: signal.raise_signal(number))
    handler = signal.getsignal(signal.SIGTERM)
    assert cli.main(["train", *sweep, *SMALL]) == status
    assert "interrupted; finished artefacts are kept" in capsys.readouterr().err
    assert not list(elsewhere.rglob("*.partial"))
    assert signal.getsignal(signal.SIGTERM) is handler


def test_interruption_during_imports(capsys, monkeypatch):
    class Interrupted(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "robust_npe.launch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    assert cli.main(["train"]) == 130
    assert "interrupted" in capsys.readouterr().err


def checkpoints(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*.partial/parts/checkpoint")}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.usefixtures("interruptible")
def test_interruptions_end_the_workers_too_when_they_stored_where_they_stand(
    number, status, elsewhere
):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["train", "-m", "hydra/launcher=cores", "seed=0,1", "estimator=gaussian"]
    words += [
        "training.patience=100000",
        "training.max_epochs=100000",
        "training.checkpoint_every=2",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "robust_npe.cli", *words],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        messages = iter(process.stderr.readline, "")
        deadline = time.monotonic() + 60
        while len(before := checkpoints(elsewhere)) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        started = time.monotonic()
        process.send_signal(number)
        assert any(line.startswith("robust-npe: interrupted") for line in messages)
        assert process.wait(timeout=30) == status
        assert time.monotonic() - started < 8
    after = checkpoints(elsewhere)
    assert len(after) == 2
    assert all(after[path] > before[path] for path in after)
    deadline = time.monotonic() + 10  # joblib's tracker of resources ends a little later
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("there are processes left")
