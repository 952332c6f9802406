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
from robust_npe.interruption import GRACE, LIMIT
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
    # not by `rglob`, which fails where a folder goes away meanwhile
    found = (folder / "outputs" / "store" / "estimators").glob("*.partial/parts/checkpoint")
    return {p: p.stat().st_mtime_ns for p in found}


def wait_until(done, seconds, what):
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"{what} took more than {seconds} s"
        time.sleep(0.1)


def is_gone(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def sweep(elsewhere):
    """A sweep of two long trainings on two cores, in a process group of its own."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["train", "-m", "hydra/launcher=cores", "hydra.launcher.n_jobs=2", "seed=0,1"]
    words += ["estimator=gaussian", "training.patience=100000", "training.max_epochs=100000"]
    command = [sys.executable, "-m", "robust_npe.cli", *words, "training.checkpoint_every=2"]
    with (elsewhere / "out").open("w") as out, (elsewhere / "err").open("w") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
    yield process
    if not is_gone(process.pid):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)


def test_workers_end_with_a_parent_that_was_killed(sweep, elsewhere):
    wait_until(lambda: len(checkpoints(elsewhere)) == 2, 120, "the first checkpoint")
    before = checkpoints(elsewhere)
    sweep.kill()
    sweep.wait(10)
    wait_until(lambda: is_gone(sweep.pid), 40, "the end of all processes")
    after = checkpoints(elsewhere)
    assert all(after[path] >= before[path] for path in before)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.usefixtures("interruptible")
def test_interruptions_end_the_workers_too_when_they_stored_where_they_stand(
    number, status, sweep, elsewhere
):
    wait_until(lambda: len(checkpoints(elsewhere)) == 2, 120, "the first checkpoint")
    before = checkpoints(elsewhere)
    sweep.send_signal(number)
    wait_until(lambda: sweep.poll() is not None, GRACE + LIMIT + 5, "the end")
    assert sweep.returncode == status
    assert "robust-npe: interrupted" in (elsewhere / "err").read_text()
    assert (
        "2 jobs: 0 done, 0 found, 0 failed, 0 skipped, 2 interrupted"
        in (elsewhere / "out").read_text()
    )
    after = checkpoints(elsewhere)
    assert len(after) == 2
    assert all(after[path] > before[path] for path in after)
    # joblib's tracker of resources ends a little later
    wait_until(lambda: is_gone(sweep.pid), 20, "the end of all processes")
    assert "resource_tracker" not in (elsewhere / "err").read_text()


def test_an_experiment_that_is_a_sweep_says_so_when_one_job_of_it_runs(
    capsys, monkeypatch, elsewhere
):
    monkeypatch.setattr("robust_npe.commands.train.main", lambda config: "done")
    assert cli.main(["train", "experiment=figure4", "scale=smoke", "task=sir"]) == 0
    assert "a sweep over attack: this was one job" in "".join(capsys.readouterr())
    assert cli.main(["train", "experiment=figure4", "scale=smoke", "task=sir", "attack=noise"]) == 0
    assert "sweep" not in "".join(capsys.readouterr())
