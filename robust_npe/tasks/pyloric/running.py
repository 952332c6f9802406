"""Run compiled kernels on all cores."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

__all__ = ["parallel"]


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
