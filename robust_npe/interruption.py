"""Ctrl-C and SIGTERM: work that must not stop just anywhere stops where it can go on later.

A process with workers (of joblib, say) hands the signal on and waits a moment until they have
stored where they stand. Workers do not know how often the user asked: the process above ends them.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = [
    "STATUS",
    "Interruption",
    "Terminated",
    "as_worker",
    "deferred_interruption",
    "interruptible",
]

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}  # as shells report them
GRACE = 5.0  # seconds that workers have to store where they stand


class Terminated(KeyboardInterrupt):
    """The signal SIGTERM, which is taken like Ctrl-C: work is cleared up, and workers end."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Terminated` at SIGTERM and `KeyboardInterrupt` at Ctrl-C, and end the process at once
    at the second of them, where Python allows it: in the main thread.

    Ctrl-C stays ignored where it is, as in what a shell started in the background.
    """
    interruption = Interruption()

    def stop(number: int, frame: FrameType | None) -> None:
        interruption.note(number)
        _end_workers(number)
        interruption.take_effect()

    with _handling(stop):
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
    """In a worker, take signals as the main process does, and end with them: workers that go on
    with the next job would be left over. Elsewhere, do nothing."""
    if not _is_worker():
        yield
        return
    try:
        with interruptible():
            yield
    except KeyboardInterrupt as error:
        _end_at_once(signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


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


def _end_workers(number: int) -> None:
    """Hand a signal on, and wait for those who heard it."""
    from multiprocessing import active_children

    workers, deadline = active_children(), time.monotonic() + GRACE
    for worker in workers:
        if worker.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(worker.pid, number)
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))


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
    numbers = [n for n in STATUS if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
