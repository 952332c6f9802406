"""Ctrl-C and SIGTERM: work that must not stop just anywhere stops where it can go on later.

A process with workers (of joblib, say) tells them and waits a moment until they have stored where
they stand. Workers do not know how often the user asked: the process above ends them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from types import FrameType

__all__ = [
    "INTERRUPTED",
    "STATUS",
    "Interruption",
    "Terminated",
    "as_worker",
    "deferred_interruption",
    "interruptible",
    "interruption_behind",
]

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}  # as shells report them
INTERRUPTED = "interrupted; finished artefacts are kept, the same command continues"
GRACE = 5.0  # seconds that workers have to store where they stand
ORPHANED = 2.0  # seconds between two looks of a worker at its parent
LIMIT = 10.0  # seconds that clearing up may take afterwards


class Terminated(KeyboardInterrupt):
    """The signal SIGTERM, which is taken like Ctrl-C: work is cleared up, and workers end."""


def interruption_behind(error: BaseException) -> KeyboardInterrupt | None:
    """Return the interruption that led to an error: one that arrives amid compiled code, of numba
    for example, becomes the cause of a `SystemError`."""
    cause = error.__cause__ or error.__context__
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__ or cause.__context__
    return cause


@contextmanager
def interruptible(at_rest: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Raise `Terminated` at SIGTERM and `KeyboardInterrupt` at Ctrl-C, and end the process at once
    at the second of them, where Python allows it: in the main thread. It is ended at once, too,
    where the block is not left in time.

    Ctrl-C stays ignored where it is, as in what a shell started in the background.

    Args:
        at_rest: Tells whether all workers have stored where they stand; else, that is when they
            have ended.
    """
    interruption = Interruption()

    def stop(number: int, frame: FrameType | None) -> None:
        interruption.note(number)
        _end_workers(at_rest)
        limit.enter_context(_time_limit(number))
        interruption.take_effect()

    with ExitStack() as limit, _handling(stop):
        yield


@contextmanager
def deferred_interruption() -> Iterator[Interruption]:
    """Only note a first Ctrl-C or SIGTERM, for code that asks for it where it can stop; what it did
    not ask for takes effect at the end. The second one ends the process at once.

    Until `can_wait` is set, they take effect at once: there is nothing to lose yet.
    """
    interruption = Interruption()

    def note(number: int, frame: FrameType | None) -> None:
        interruption.note(number)
        if not interruption.can_wait:
            interruption.take_effect()

    with _handling(note):
        yield interruption
    interruption.take_effect()


@contextmanager
def as_worker() -> Iterator[None]:
    """In a worker, take signals as the main process does, and do no other job after them.
    Elsewhere, do nothing."""
    if not _is_worker():
        yield
        return
    # one worker that is missing makes joblib kill the others at once, which may have to store
    # something: they all wait to be ended, and do not end at signals between two jobs
    for number in _taken():
        signal.signal(number, lambda *_: None)
    _end_with_parent()
    try:
        with interruptible():
            yield
    except KeyboardInterrupt:
        time.sleep(GRACE)
        _end_at_once(signal.SIGTERM)


@cache
def _end_with_parent() -> None:
    """Watch, from now on, whether the process above is still there, which may be killed without
    a chance to end its workers; without it, this one stops as at SIGTERM."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHANED)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(2 * GRACE)  # between two jobs nobody listens
        os._exit(STATUS[signal.SIGTERM])

    threading.Thread(target=watch, daemon=True).start()


class Interruption:
    """A signal that arrived while work could not stop.

    Attributes:
        number: The signal; None if there was none.
        can_wait: Whether work that would be lost has begun, and is short.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.can_wait = False

    def __bool__(self) -> bool:
        return self.number is not None

    def note(self, number: int) -> None:
        """Remember a signal, or end the process if it is the second."""
        if self.number is None:
            self.number = number
        elif not _is_worker():
            _end_at_once(number)

    def take_effect(self) -> None:
        """Raise what the signal stands for, if one arrived."""
        if self.number is not None:
            raise Terminated if self.number == signal.SIGTERM else KeyboardInterrupt


def _is_worker() -> bool:
    from multiprocessing import parent_process  # slow to import

    return parent_process() is not None


def _end_workers(at_rest: Callable[[], bool]) -> None:
    """Tell workers to end, and wait until they have stored where they stand."""
    from multiprocessing import active_children

    workers, deadline = active_children(), time.monotonic() + GRACE
    for worker in workers:
        worker.terminate()
    while any(w.is_alive() for w in workers) and not at_rest() and time.monotonic() < deadline:
        time.sleep(0.05)


@contextmanager
def _time_limit(number: int) -> Iterator[None]:
    """End the process at once if the block takes long: an exception can be lost in code that
    catches all of them, and libraries can wait forever for workers that are gone."""

    def end(*_: object) -> None:
        sys.stderr.write(f"robust-npe: {INTERRUPTED}\n")
        sys.stderr.flush()
        _end_at_once(number)

    if not hasattr(signal, "setitimer"):  # Windows
        yield
        return
    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _end_at_once(number: int) -> None:
    """End the process without clearing up: what is stored is whole at any moment."""
    from multiprocessing import active_children

    for worker in active_children():
        worker.kill()
    os._exit(STATUS[signal.Signals(number)])


@contextmanager
def _handling(handler: signal._HANDLER) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _taken()}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _taken() -> list[signal.Signals]:
    return [number for number in STATUS if signal.getsignal(number) is not signal.SIG_IGN]
