"""How far a sweep is, while it runs and at its end, told by the files of its jobs."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from robust_npe.checks import ConfigError
from robust_npe.sweeps.jobs import (
    DONE,
    FAILED,
    FOUND,
    INTERRUPTED,
    RUNNING,
    JobStatus,
    read_statuses,
)

__all__ = ["SweepStarted", "SweepWatch", "check_folders", "watched"]

SKIPPED = "skipped"
DIED = "its process ended without a word: killed, out of memory, or its machine went down"
CLEAR = "\r\033[K"  # the line of a terminal
INTERVAL = 0.5  # seconds between two looks at the files


class SweepStarted(Callback):
    """Tells the watch of this process what Hydra is about to do; Hydra makes one itself."""

    watch: ClassVar[SweepWatch | None] = None  # Hydra pickles callbacks: nothing hangs on them

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        """Start to watch the sweep of a configuration."""
        if self.watch is not None:
            jobs = _jobs(config)
            self.watch.start(Path(config.hydra.sweep.dir).absolute(), jobs)


def check_folders(words: Sequence[str]) -> None:
    """Raise a `ConfigError` where jobs would not have one folder each, in one place.

    Args:
        words: The overrides of a sweep.
    """
    for override in OverridesParser.create().parse_overrides(list(words)):
        key, value = override.key_or_group, override.input_line
        if key == "output_dir" and override.is_sweep_override():
            raise ConfigError(
                f"{value!r} has several values, a sweep has one: jobs of other settings do not get "
                "in each other's way there."
            )
        if key == "hydra.sweep.subdir" and "hydra.job.num" not in str(value):
            raise ConfigError(f"{value!r}: leave it as it is, each job needs a folder of its own.")


def _jobs(config: DictConfig) -> list[list[str]]:
    """Return the overrides of each job; none for a sweeper that searches, see `expect`."""
    if "n_trials" in config.hydra.sweeper:
        return []
    words = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    words += config.hydra.overrides.task
    (jobs,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(words), None)
    return jobs


class SweepWatch:
    """Shows one line of progress on a terminal, and elsewhere a plain line for each job that ended.

    What failed is told at once, in a line of its own; `report` has a table of all jobs.

    Attributes:
        remarks: What a sweeper has to say of the jobs together, at the end of the report.
    """

    def __init__(self) -> None:
        self.jobs: list[list[str]] = []
        self.statuses: dict[int, JobStatus] = {}
        self.folder: Path | None = None
        self.remarks: list[str] = []
        self._started = time.perf_counter()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._told: set[int] = set()

    def start(self, folder: Path, jobs: Sequence[Sequence[str]]) -> None:
        """Watch the jobs below a folder, in a thread.

        Args:
            folder: The folder of the sweep.
            jobs: The overrides of each job.
        """
        self.folder, self.jobs = folder, [list(job) for job in jobs]
        self._started = time.perf_counter()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def expect(self, jobs: Sequence[Sequence[str]]) -> None:
        """Set the jobs of a sweeper that finds out itself what to run.

        Args:
            jobs: As for `start`; what is not known yet of their overrides is told by the jobs.
        """
        self.jobs = [list(job) for job in jobs]

    def foretell(self, number: int, words: Sequence[str], error: str) -> None:
        """Say that a job which has not begun will fail.

        Args:
            number: Its number in the sweep.
            words: Its overrides.
            error: Of what, one line.
        """
        own = _own_words(JobStatus(number, words), _shared(self.jobs))
        clear = CLEAR if sys.stderr.isatty() else ""
        sys.stderr.write(f"{clear}job {number + 1}/{len(self.jobs)} will fail: {own}: {error}\n")

    def stop(self) -> None:
        """Look a last time."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._look()
            if sys.stderr.isatty():
                sys.stderr.write(CLEAR)

    def at_rest(self) -> bool:
        """Whether no job runs now."""
        statuses = read_statuses(self.folder).values() if self.folder else ()
        return all(status.state != RUNNING for status in statuses)

    def report(self, ended: bool = True) -> tuple[str, bool]:
        """Return a table of all jobs with their sums, and whether all of them succeeded.

        Args:
            ended: Whether no job can be running any more.
        """
        states, rows = Counter[str](), []
        shared = _shared(self.jobs)
        for number, words in enumerate(self.jobs):
            status = self.statuses.get(number) or JobStatus(number, words, SKIPPED)
            if ended and status.state == RUNNING:
                status = JobStatus(number, status.overrides, FAILED, 0, status.where, DIED)
            states[status.state] += 1
            rows.append(_row(status, shared))
        kinds = [DONE, FOUND, FAILED, SKIPPED, *(s for s in (INTERRUPTED, RUNNING) if states[s])]
        counts = ", ".join(f"{states[s]} {s}" for s in kinds)
        end = f"{len(rows)} jobs: {counts}; {self._seconds():.0f} s; logs in {self.folder}"
        text = "\n".join([aligned(rows), end, *self.remarks])
        return text, states[DONE] + states[FOUND] == len(rows)

    def _watch(self) -> None:
        while not self._ended.wait(INTERVAL):
            self._look()

    def _look(self) -> None:
        assert self.folder is not None
        self.statuses = read_statuses(self.folder)
        terminal = sys.stderr.isatty()
        shared = _shared(self.jobs)
        for number, status in self.statuses.items():
            new = status.state != RUNNING and number not in self._told
            if new and (status.state == FAILED or not terminal):
                sys.stderr.write(f"{CLEAR if terminal else ''}{self._line(status, shared)}\n")
            self._told |= {number} if new else set()
        if terminal:
            sys.stderr.write(f"{CLEAR}{progress(self.statuses, len(self.jobs), self._seconds())}")
        sys.stderr.flush()

    def _seconds(self) -> float:
        return time.perf_counter() - self._started

    def _line(self, status: JobStatus, shared: set[str]) -> str:
        words = _own_words(status, shared)
        text = f"job {status.number + 1}/{len(self.jobs)} {status.state} ({status.seconds:.1f} s)"
        error = f": {status.error} (see {status.where})" if status.error else ""
        return f"{text} {words}{error}"


def progress(statuses: Mapping[int, JobStatus], total: int, seconds: float) -> str:
    """Return the line of progress: jobs done, running and failed, and the time left.

    Args:
        statuses: What is known of the jobs.
        total: Number of jobs.
        seconds: Since the start.
    """
    states = Counter(status.state for status in statuses.values())
    computed = states[DONE] + states[FAILED]
    ended = computed + states[FOUND]
    text = f"sweep: {ended}/{total} ended, {states[RUNNING]} running, {states[FAILED]} failed"
    if not computed:
        return text
    left = round(seconds / computed * (total - ended))  # jobs that were found took no time
    return f"{text}, about {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"


def _shared(jobs: Sequence[Sequence[str]]) -> set[str]:
    return set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()


def _own_words(status: JobStatus, shared: set[str]) -> str:
    return " ".join(word for word in status.overrides if word not in shared)


def _row(status: JobStatus, shared: set[str]) -> dict[str, str]:
    return {
        "job": str(status.number + 1),
        "state": status.state,
        "seconds": f"{status.seconds:.1f}",
        "overrides": _own_words(status, shared),
        "where": DIED if status.error == DIED else status.where,
    }


def aligned(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows as columns of text with their titles, aligned to the left."""
    titles = list(rows[0]) if rows else []
    width = {t: max(len(t), *(len(row[t]) for row in rows)) for t in titles}
    lines = [{t: t for t in titles}, *rows]
    return "\n".join("  ".join(r[t].ljust(width[t]) for t in titles).rstrip() for r in lines)


@contextmanager
def watched() -> Iterator[SweepWatch]:
    """Watch the sweep that Hydra starts inside of the block."""
    watch = SweepStarted.watch = SweepWatch()
    try:
        yield watch
    finally:
        SweepStarted.watch = None
        watch.stop()
