"""One job of a sweep: a small file in its folder says what became of it.

Files are what every launcher shares with its jobs: threads of this process, processes beside it,
machines of a cluster. So one way to count and to report serves them all.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from robust_npe.files import write_atomically

__all__ = [
    "DONE",
    "FAILED",
    "FOUND",
    "INTERRUPTED",
    "RUNNING",
    "STATUS",
    "JobStatus",
    "note",
    "read_statuses",
    "tracked",
]

log = logging.getLogger(__name__)

STATUS = "status.json"
RUNNING, DONE, FOUND, FAILED, INTERRUPTED = "running", "done", "found", "failed", "interrupted"


@dataclass(frozen=True)
class JobStatus:
    """What became of a job.

    Attributes:
        number: Its number in the sweep.
        overrides: The words that it differs by, and those that all jobs share.
        state: `running`, `done`, `found` (nothing had to be computed), `failed` or `interrupted`.
        seconds: How long it took.
        where: Folder of the results; log of a job that failed.
        error: What went wrong, one line.
    """

    number: int
    overrides: Sequence[str]
    state: str = RUNNING
    seconds: float = 0.0
    where: str = ""
    error: str = ""


def tracked(work: Callable[[], Any], known: tuple[type[Exception], ...]) -> Any:
    """Do the work of the job that runs now, and note what became of it.

    An error ends this job alone: its traceback is in the job's log.

    Args:
        work: Returns what the command returns; `created` and `folder` of it are noted.
        known: Errors that carry a message for people; of others, the type is told as well.

    Returns:
        What `work` returned, None if it failed.
    """
    hydra = HydraConfig.get()
    folder, number = Path(hydra.runtime.output_dir), int(hydra.job.num)
    overrides = list(hydra.overrides.task)
    _quiet_on_terminals()
    note(folder, JobStatus(number, overrides))
    started = time.perf_counter()
    try:
        result = work()
    except KeyboardInterrupt:
        seconds = time.perf_counter() - started
        note(folder, JobStatus(number, overrides, INTERRUPTED, seconds))
        raise
    except Exception as error:
        if isinstance(error, BrokenPipeError):
            raise
        text = " ".join(str(error).split())
        text = text if isinstance(error, known) else f"{type(error).__name__}: {text}"
        _log_traceback(error)
        where = os.path.relpath(folder / f"{hydra.job.name}.log")
        seconds = time.perf_counter() - started
        note(folder, JobStatus(number, overrides, FAILED, seconds, where, text))
        return None
    state = DONE if getattr(result, "created", True) else FOUND
    where = str(getattr(result, "folder", ""))
    note(folder, JobStatus(number, overrides, state, time.perf_counter() - started, where))
    return result


def _quiet_on_terminals() -> None:
    """Leave a terminal to the line of progress: messages go to the log of their job alone."""
    root = logging.getLogger()
    if sys.stderr.isatty():
        root.handlers = [h for h in root.handlers if isinstance(h, logging.FileHandler)]


def read_statuses(sweep: Path) -> dict[int, JobStatus]:
    """Return what is known of the jobs of a sweep, by number.

    Args:
        sweep: The folder of the sweep, with a folder for each job.
    """
    found = {}
    for path in sweep.glob(f"*/{STATUS}"):
        status = JobStatus(**json.loads(path.read_text()))
        found[status.number] = status
    return dict(sorted(found.items()))


def note(folder: Path, status: JobStatus) -> None:
    """Write what became of a job into its folder."""
    write_atomically(folder / STATUS, json.dumps(asdict(status)).encode())


def _log_traceback(error: Exception) -> None:
    """Write what happened to the job's log; the screen gets one line, see `SweepWatch`."""
    place = (__name__, logging.ERROR, __file__, 0, "failed: %s", (error,))
    record = logging.LogRecord(*place, (type(error), error, error.__traceback__))
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
