"""Say when a compiled kernel has to be prepared first."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["announced"]

_logger = logging.getLogger(__name__)


PATIENCE = 0.3  # seconds after which it is known whether the cache has a kernel


def announced(function: Callable[..., Any], what: str, *kernels: Any) -> Callable[..., Any]:
    """Return `function` with a log message when its first call has to wait for a compiler.

    Args:
        function: Calls numba kernels, or is one.
        what: Its name in the message.
        kernels: The kernels that it calls; none if it is one.
    """
    kernels = kernels or (function,)
    lock = threading.Lock()

    def compiles() -> bool:
        return any(kernel.stats.cache_misses for kernel in kernels)

    def announce() -> None:
        if compiles():
            _logger.info("preparing %s: compiled once per machine, then kept in a cache", what)

    def first_call(arguments: tuple[Any, ...]) -> Any:
        timer = threading.Timer(PATIENCE, announce)
        timer.start()
        start = time.perf_counter()
        try:
            result = function(*arguments)
        finally:
            timer.cancel()
        if compiles():
            _logger.info("%s is ready after %.1f s", what, time.perf_counter() - start)
        return result

    def ready() -> bool:
        return all(kernel.signatures for kernel in kernels)

    def call(*arguments: Any) -> Any:
        if not ready():
            with lock:  # other threads wait for the compiler instead of running a second one
                if not ready():
                    return first_call(arguments)
        return function(*arguments)

    return call
