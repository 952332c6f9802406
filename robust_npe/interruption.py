"""Ctrl-C and SIGTERM: work that must not stop just anywhere stops where it can go on later."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["STATUS", "Interruption", "Terminated", "deferred_interruption", "interruptible"]

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}  # as shells report them


class Terminated(KeyboardInterrupt):
    """The signal SIGTERM, which is taken like Ctrl-C: work is cleared up, and workers end."""


def _raise(number: int) -> None:
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Terminated` at SIGTERM and `KeyboardInterrupt` at Ctrl-C, and end the process at once
    at the second of them, where Python allows it: in the main thread.

    Ctrl-C stays ignored where it is, as in what a shell started in the background.
    """
    seen: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if seen:
            end_at_once(number)
        seen.append(number)
        _raise(number)

    with _handling(stop):
        yield


class Interruption:
    """What arrived while work could not stop."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None

    def take_effect(self) -> None:
        """Raise what would have been raised, if a signal arrived."""
        if self.number is not None:
            _raise(self.number)


@contextmanager
def deferred_interruption() -> Iterator[Interruption]:
    """Only note a first Ctrl-C or SIGTERM, for code that asks for it where it can stop; whatever
    was not asked for takes effect at the end. The second one ends the process at once."""
    interruption = Interruption()

    def note(number: int, frame: FrameType | None) -> None:
        if interruption:
            end_at_once(number)
        interruption.number = number

    with _handling(note):
        yield interruption
    interruption.take_effect()


def end_at_once(number: int) -> None:
    """End the process without clearing up: what is stored is whole at any moment."""
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
