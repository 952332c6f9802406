"""A message when a numba kernel has to be compiled first, and when that is."""

from __future__ import annotations

import hashlib
import inspect
import logging
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["log_compilation", "watch_sources"]

_logger = logging.getLogger(__name__)

PATIENCE = 0.3  # seconds between two looks at whether the cache had the kernel


def log_compilation(function: Callable[..., Any], what: str, *kernels: Any) -> Callable[..., Any]:
    """Return `function` with a log message when its first call has to wait for a compiler.

    Args:
        function: Calls numba kernels, or is one.
        what: Its name in the message.
        kernels: The kernels that it calls; none if it is one.
    """
    kernels = kernels or (function,)
    lock = threading.Lock()

    def watch(done: threading.Event) -> None:
        start, compiled = time.perf_counter(), False
        while not done.wait(PATIENCE) and not compiled:
            compiled = any(kernel.stats.cache_misses for kernel in kernels)
            if compiled:
                _logger.info("preparing %s: compiled once per machine, then kept in a cache", what)
        done.wait()
        if compiled:
            _logger.info("%s: ready after %.1f s", what, time.perf_counter() - start)

    def first_call(arguments: tuple[Any, ...]) -> Any:
        done = threading.Event()
        watcher = threading.Thread(target=watch, args=(done,), daemon=True)
        watcher.start()
        try:
            return function(*arguments)
        finally:
            done.set()
            watcher.join()

    def ready() -> bool:
        return all(kernel.signatures for kernel in kernels)

    def call(*arguments: Any) -> Any:
        if not ready():
            with lock:  # other threads wait for the compiler instead of running a second one
                if not ready():
                    return first_call(arguments)
        return function(*arguments)

    return call


def watch_sources(kernel: Any, *modules: ModuleType) -> None:
    """Let numba's cache of a kernel notice changes of other files, whose functions it calls.

    By itself it looks at the file of the kernel only, and would go on with what these were.
    """
    file = getattr(kernel._cache, "_cache_file", None)  # none where numba may not cache
    if file is not None:
        sources = [hashlib.sha256(inspect.getsource(m).encode()).hexdigest() for m in modules]
        file._source_stamp = (file._source_stamp, *sources)
