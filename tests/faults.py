"""Kills commands at random moments and repeats them: nothing may be lost, damaged or different.

`make test-faults` sends 200 SIGKILLs to trainings and 50 to inference of classifiers;
`tests/test_faults.py` a dozen and two.
"""

from __future__ import annotations

import multiprocessing
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import torch

from robust_npe.bayesian import InferenceState
from robust_npe.commands import train
from robust_npe.store import Artefact
from robust_npe.training import loop
from tests.test_config import composed

SMALL = (
    "scale=smoke",
    "defense=fim",
    "estimator=gaussian",
    "num_simulations=200",
    "training.batch_size=20",
    "training.max_epochs=4",
    "training.min_epochs=4",
    "training.checkpoint_every=0",  # every step is stored, so that work done twice can be counted
    "attack.steps=300",
    "metric=[nll,divergence]",
    "plots=false",
)
CLASSIFIER = (
    "scale=smoke",
    "task=classification/half_moons",
    "estimator=classifier/mlp",
    "estimator.hidden=[16]",
    "standardize=none",
    "num_simulations=200",
    "training.checkpoint_every=0",
    "objective=nll",
    "epsilon=1",
    "norm=linf",
    "metric=[nll,accuracy]",
    "plots=false",
)
RESULTS = ("results.csv", "observations.csv", "history.csv", "weights.safetensors")


@dataclass(frozen=True)
class Workload:
    """Two runs that share parts.

    Attributes:
        words: What they have in common.
        runs: What they differ in.
    """

    words: tuple[str, ...]
    runs: tuple[tuple[str, ...], tuple[str, ...]]


# they share their training, and an attack
TRAINING = Workload(SMALL, (("epsilon=[0.5,1]",), ("epsilon=[1,2]",)))
# they share simulations; most of their time is inference
INFERENCE = Workload(
    CLASSIFIER,
    (
        ("inference=swag", "inference.min_steps=0", "inference.epochs=20", "inference.rank=5"),
        ("inference=hmc", "inference.warm_up=30", "inference.draws=3", "inference.chains=2"),
    ),
)


@dataclass
class Report:
    """What was done and found.

    Attributes:
        kills: SIGKILLs that hit a running process.
        finished: Stores that were complete in the end, each compared with the undisturbed one.
        steps_needed: Steps of training in all of these stores, had nobody killed anything.
        steps_done: Steps that were begun.
        where: How often each kind of artefact was unfinished after a kill.
    """

    kills: int = 0
    finished: int = 0
    steps_needed: int = 0
    steps_done: int = 0
    where: dict[str, int] = field(default_factory=dict)


def torture(folder: Path, kills: int, workload: Workload = TRAINING, seed: int = 0) -> Report:
    """Send so many SIGKILLs, by turns to one process and to two on one store, and check what comes
    out.

    Raises:
        AssertionError: Something is damaged, different or left over, or work was lost.
    """
    chance, report = random.Random(seed), Report()
    expected, steps, duration = undisturbed(folder, workload)
    while report.kills < kills:
        output = folder / str(report.finished)
        log = folder / f"steps-{report.finished}"
        before = report.kills
        together = report.finished % 2
        words = [(*workload.words, *run) for run in workload.runs]
        for runs in [words] if together else [[run] for run in words]:
            longest = 2 * len(runs) * duration  # so that attacks and tables are met, too
            while not attempt(runs, output, log, chance.uniform(0, longest), report):
                note_unfinished(output, report)
        done = log.stat().st_size
        assert content(output) == expected
        assert not list(output.rglob("*.partial"))
        assert not list(output.rglob("*.damaged*"))
        assert done <= steps + report.kills - before  # the interval is one step
        report.finished += 1
        report.steps_needed += steps
        report.steps_done += done
    return report


def undisturbed(folder: Path, workload: Workload) -> tuple[dict[str, bytes], int, float]:
    """Return results without kills, the number of steps they take, and the seconds of a run."""
    first, second = ((*workload.words, *run) for run in workload.runs)
    for output in (folder / "imports", folder / "undisturbed"):  # the first one is slower
        started = time.monotonic()
        work(first, output, output.with_suffix(".steps"))
        duration = time.monotonic() - started
    work(second, output, output.with_suffix(".steps"))
    return content(output), output.with_suffix(".steps").stat().st_size, duration


def attempt(runs, output: Path, log: Path, delay: float, report: Report) -> bool:
    """Start runs at the same time and kill them after a delay; tell whether all had finished."""
    context = multiprocessing.get_context("fork")  # imports are done: most of the time is work
    processes = [context.Process(target=work, args=(run, output, log), daemon=True) for run in runs]
    deadline = time.monotonic() + delay
    for process in processes:
        process.start()
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        report.kills += process.is_alive()
        process.kill()
        process.join()
    statuses = [process.exitcode for process in processes]
    assert set(statuses) <= {0, -9}, statuses
    return not any(statuses)


def work(run: tuple[str, ...], output: Path, log: Path) -> None:
    """Do one run, with a byte in the log for every step of training."""

    def counted(step):
        def wrapped(*args):
            with log.open("ab") as file:
                file.write(b".")
            return step(*args)

        return wrapped

    with (
        patch.object(loop, "_step", counted(loop._step)),
        patch.object(InferenceState, "step", counted(InferenceState.step)),
    ):
        train.main(composed(*run, f"output_dir={output}"))


def content(output: Path) -> dict[str, bytes]:
    """Return all results of a store, every artefact verified."""
    for manifest in output.rglob("manifest.json"):
        Artefact(manifest.parent, manifest.parent.name, created=False).verify()
    paths = [path for name in RESULTS for path in sorted(output.rglob(name))]
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in paths}


def note_unfinished(output: Path, report: Report) -> None:
    """Count what was being made."""
    for path in output.rglob("*.partial"):
        report.where[path.parent.name] = report.where.get(path.parent.name, 0) + 1


if __name__ == "__main__":
    torch.set_num_threads(1)  # more of them do not survive a fork
    count = int(sys.argv[1])
    for kills, workload in ((count, TRAINING), (count // 4, INFERENCE)):
        with tempfile.TemporaryDirectory() as place:
            sys.stdout.write(f"{torture(Path(place), kills, workload)}\n")
