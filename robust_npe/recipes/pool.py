"""Processes that compute runs and draw figures."""

from __future__ import annotations

import logging
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from robust_npe.commands import train
from robust_npe.commands.experiment import Experiment
from robust_npe.files import StoreError
from robust_npe.interruption import as_worker
from robust_npe.plotting.saving import compress_png
from robust_npe.recipes.figures import ERRORS
from robust_npe.recipes.tables import read_tables

__all__ = ["Pool", "compute", "draw", "redrawn"]

log = logging.getLogger(__name__)

DIED = "its process ended, perhaps for lack of memory"


class Pool:
    """A few processes, which are ended when the block is left early, as by Ctrl-C.

    Args:
        workers: How many.
        folder: Where each of them writes its log, instead of to the screen.

    Raises:
        StoreError: The folder cannot be made.
    """

    def __init__(self, workers: int, folder: Path) -> None:
        self.workers = workers
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"the folder {folder} cannot be made ({error.strerror}): choose another one."
            ) from error
        self._executor = self._started()

    def _started(self) -> ProcessPoolExecutor:
        return _processes(self.workers, _start, self.folder)

    def submit(self, function: Callable[..., str], *arguments: Any) -> Future:
        """Call a function of this module in one of the processes."""
        try:
            return self._executor.submit(function, *arguments)
        except BrokenExecutor:
            self._executor.shutdown(wait=False)
            self._executor = self._started()
            return self._executor.submit(function, *arguments)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for process in multiprocessing.active_children():
                process.kill()  # signals gave each time to store where it stands
        self._executor.shutdown(cancel_futures=True)


def _processes(count: int, start: Callable[..., None], *arguments: Any) -> ProcessPoolExecutor:
    # read when numpy and scipy are loaded; threads of several processes wait for each other
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit the threads of torch
    return ProcessPoolExecutor(count, spawn, start, arguments)


def outcome(future: Future) -> str:
    """Return what went wrong, or nothing."""
    try:
        return str(future.result())
    except BrokenExecutor:
        return DIED


def _start(folder: Path) -> None:
    """Prepare a process: quiet, with one thread; Ctrl-C is the business of its parent."""
    _ignore_interruptions()
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = (folder / f"{os.getpid()}.log").open("w", buffering=1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")


def compute(label: str, config: Mapping[str, Any]) -> str:
    """Run one experiment; return what went wrong, or nothing."""
    log.info("%s", label)
    try:
        with as_worker():
            train.run(Experiment(config))
    except Exception as error:
        log.exception("failed")
        return _line(error)
    return ""


def draw(
    script: Path, scale: str, output: Path, overrides: Sequence[str], seeds: int | None
) -> str:
    """Draw the figure of a script; return what went wrong, or nothing."""
    log.info("draw %s", script)
    try:
        runpy.run_path(str(script))["FIGURE"].make(scale, output, overrides, seeds)
    except Exception as error:
        log.exception("failed")
        return _line(error)
    return ""


def redrawn(scripts: Sequence[Path], tables: Path, output: Path) -> Iterator[Path]:
    """Draw the figures of scripts from tables in a folder, as small PNG files, two at a time, and
    yield them.

    Raises:
        StoreError: Some could not be drawn, after the others were.
    """
    work = partial(_redraw, tables=tables, output=output)
    failures = []
    with ExitStack() as stack:
        every: Iterator[tuple[list[Path], str]] = map(work, scripts)
        if len(scripts) > 1:
            executor = _processes(2, _ignore_interruptions)
            every = stack.enter_context(executor).map(work, scripts)
        for paths, failure in every:
            yield from paths
            failures += [failure] if failure else []
    if failures:
        raise StoreError("\n".join(failures))


def _ignore_interruptions() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the business of the parent


def _redraw(script: Path, tables: Path, output: Path) -> tuple[list[Path], str]:
    """Return what was drawn, and what went wrong or nothing."""
    torch.set_num_threads(1)
    figure = runpy.run_path(str(script))["FIGURE"]
    try:
        paths = figure.save(read_tables(figure.name, tables), output, (".png",))
    except ERRORS as error:
        return [], f"{figure.name}: {error}"
    except Exception as error:  # a mistake of the code: where it is, and the other figures
        log.exception("%s", figure.name)
        return [], f"{figure.name}: {_line(error)}"
    for path in paths:
        compress_png(path)
    return list(paths), ""


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
