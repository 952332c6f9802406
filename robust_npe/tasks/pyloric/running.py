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


def announced(kernel: Any, what: str) -> Callable[..., Any]:
    """Return a function that calls a numba kernel and logs the wait of its first call."""

    lock = threading.Lock()

    def prepare(arguments: tuple[Any, ...]) -> None:
        _logger.info("preparing %s: compiled once per machine, then kept in a cache", what)
        start = time.perf_counter()
        kernel.compile(tuple(kernel.typeof_pyval(x) for x in arguments))
        origin = "loaded from the cache" if kernel.stats.cache_hits else "compiled"
        _logger.info("%s %s in %.1f s", what, origin, time.perf_counter() - start)

    def call(*arguments: Any) -> Any:
        if not kernel.signatures:
            with lock:
                if not kernel.signatures:
                    prepare(arguments)
        return kernel(*arguments)

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
