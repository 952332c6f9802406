from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from robust_npe import cli
from robust_npe.sweeps.jobs import DONE, FAILED, FOUND, RUNNING, JobStatus
from robust_npe.sweeps.watch import DIED, SweepWatch, progress

SMALL = ("scale=smoke", "num_simulations=64", "training.max_epochs=1", "estimator=gaussian")
SMALL += ("epsilon=1", "plots=false", "metric=[nll]")


pytestmark = pytest.mark.usefixtures("elsewhere")


def states(text):
    """State of each job in the table at the end, by what it differs in."""
    lines = text[text.index("job  state") :].splitlines()[1:]
    rows = [line.split() for line in lines if line[0].isdigit() and "jobs:" not in line]
    return {row[3]: row[1] for row in rows}


def test_a_failed_job_stops_no_other_and_a_second_run_does_what_is_missing(capsys, elsewhere):
    words = ["train", "-m", *SMALL, "standardize=zscore,oops,none"]
    assert cli.main(words) == 1
    out, err = capsys.readouterr()
    assert states(out) == {
        "standardize=zscore": DONE,
        "standardize=oops": FAILED,
        "standardize=none": DONE,
    }
    assert "3 jobs: 2 done, 0 found, 1 failed, 0 skipped" in out
    told = "job 2/3 will fail: standardize=oops: standardize='oops' is not valid"
    assert err.index(told) < err.index("training on 64 pairs")  # before the first one starts
    assert err.count("'oops' is not valid") == 2
    assert "Traceback" not in err
    (path,) = elsewhere.glob("outputs/logs/*/1/train.log")
    assert "Traceback" in path.read_text()
    assert str(path.relative_to(elsewhere)) in out

    assert cli.main([*words[:-1], "standardize=zscore,none,robust"]) == 0
    out, err = capsys.readouterr()
    assert list(states(out).values()) == [FOUND, FOUND, DONE]
    assert err.count("job ") == 3


@pytest.mark.parametrize(
    ("word", "named"), [("defense=none,oops", "defense=oops"), ("training.sze=10,20", "sze")]
)
def test_words_that_no_job_can_have_end_a_sweep_before_it_begins(word, named, capsys, elsewhere):
    assert cli.main(["train", "-m", *SMALL, word]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert named in err
    assert not list(elsewhere.rglob("store"))


def test_jobs_are_numbered_through_all_batches(capsys, elsewhere):
    words = ["seed=0,1", "hydra.sweeper.max_batch_size=1", "epsilon=1,-1"]
    assert cli.main(["train", "-m", *SMALL, *words]) == 1
    err = capsys.readouterr().err
    foretold = [line.split()[1] for line in err.splitlines() if "will fail" in line]
    assert foretold == ["3/4", "4/4"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("output_dir=a,b", "'output_dir=a,b' has several values, a sweep has one"),
        ("hydra.sweep.subdir=x", "'hydra.sweep.subdir=x': leave it as it is"),
    ],
)
def test_jobs_have_one_folder_each_in_one_place(word, message, capsys, elsewhere):
    assert cli.main(["train", "-m", *SMALL, "seed=0,1", word]) == 2
    assert message in capsys.readouterr().err
    assert not list(elsewhere.rglob("runs"))


def test_sweeps_of_the_same_second_have_folders_of_their_own(elsewhere):
    words = [sys.executable, "-m", "robust_npe.cli", "train", "-m", *SMALL]
    sweeps = [subprocess.Popen([*words, f"seed={s},{s + 1}"]) for s in (0, 2)]
    assert [sweep.wait(300) for sweep in sweeps] == [0, 0]
    assert len(list(elsewhere.glob("outputs/logs/*_sweep"))) == 2


def test_cores_share_a_training(capsys, elsewhere):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["train", "-m", "hydra/launcher=cores", "hydra.launcher.n_jobs=2"]
    assert cli.main([*words, *SMALL, "epsilon=0.5,1,-1"]) == 1
    assert sorted(states(capsys.readouterr().out).values()) == [DONE, DONE, FAILED]
    logs = "".join(p.read_text() for p in elsewhere.glob("outputs/logs/*/*/train.log"))
    assert logs.count("training on 64 pairs") == 1
    assert len(list(elsewhere.glob("outputs/store/estimators/*"))) == 1
    assert len(list(elsewhere.glob("outputs/runs/*/results.csv"))) == 2


def test_a_terminal_gets_one_line_of_progress(elsewhere):
    code = f"import sys; from robust_npe import cli; sys.exit(cli.main({['train', '-m', *SMALL]}))"
    master, terminal = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=terminal, text=True, check=True
    )
    os.close(terminal)
    shown = os.read(master, 100000).decode()
    assert "training" not in shown
    assert shown.endswith("\r\x1b[K")
    assert "1/1 ended, 0 running, 0 failed" in shown
    assert "1 jobs: 1 done" in done.stdout
    assert "training on 64 pairs" in next(elsewhere.glob("outputs/logs/*/0/train.log")).read_text()


def test_jobs_that_died_or_never_started_are_told(tmp_path):
    watch = SweepWatch()
    watch.start(tmp_path, [["seed=0", "a=1"], ["seed=1", "a=1"], ["seed=2", "a=1"]])
    watch.stop()
    watch.statuses = {0: JobStatus(0, ["seed=0", "a=1"], DONE, 2.0, "runs/x")}
    watch.statuses[1] = JobStatus(1, ["seed=1", "a=1"], RUNNING)
    text, succeeded = watch.report()
    assert not succeeded
    assert states(text) == {"seed=0": DONE, "seed=1": FAILED, "seed=2": "skipped"}
    assert DIED in text


def test_time_left_is_that_of_jobs_which_are_computed():
    kinds = [DONE, DONE, FOUND, RUNNING]
    statuses = {n: JobStatus(n, [], state) for n, state in enumerate(kinds)}
    # two jobs took 20 s, seven are left
    line = progress(statuses, 10, 20.0)
    assert line == "sweep: 3/10 ended, 1 running, 0 failed, about 0:01:10 left"
