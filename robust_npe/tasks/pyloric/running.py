"""Run compiled kernels on all cores, and say when one has to be compiled first."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

__all__ = ["announced", "parallel"]

_logger = logging.getLogger(__name__)


def announced(function: Callable[..., Any], what: str, *kernels: Any) -> Callable[..., Any]:
    """Return `function` with a log message when its first call has to wait for a compiler.

    Args:
        function: Calls numba kernels, or is one.
        what: Its name in the message.
        kernels: The kernels that it calls; none if it is one.
    """
    lock = threading.Lock()

    def ready() -> bool:
        return all(kernel.signatures for kernel in kernels or (function,))

    def first_call(arguments: tuple[Any, ...]) -> Any:
        _logger.info("preparing %s: compiled once per machine, then kept in a cache", what)
        start = time.perf_counter()
        result = function(*arguments)
        _logger.info("%s is ready after %.1f s", what, time.perf_counter() - start)
        return result

    def call(*arguments: Any) -> Any:
        if not ready():
            with lock:  # other threads wait for the compiler instead of running a second one
                if not ready():
                    return first_call(arguments)
        return function(*arguments)

    return call


def parallel(job: Callable[[int], None], count: int, num_threads: int | None) -> None:
    """Call `job(0) ... job(count - 1)`, several at once.

    Args:
        job: Spends its time in a kernel that releases the interpreter's lock.
        count: Number of calls.
        num_threads: How many run at once; None for one per available core.
    """
    if num_threads is not None and num_threads < 1:
        raise ValueError(f"num_threads must be at least 1 (or None), got {num_threads}")
    threads = min(count, num_threads or _available_cores())
    if threads <= 1:
        for i in range(count):
            job(i)
        return
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(job, i) for i in range(count)]:
            future.result()


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
