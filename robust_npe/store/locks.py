"""Locks between processes, also of several machines that share a file system.

Two locks are held at once. `flock` ends with its process, however that ends, and nothing gets past
it on one machine; but some network file systems keep it to the machine it was taken on. A lease is
a file that its holder touches every now and then. Others take it over when nothing has happened for
`LEASE` seconds of their own clock, so that clocks need not agree, and at once where it is from a
process of their own machine that has ended. Both are those of the library filelock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, SoftFileLease, Timeout

from robust_npe.files import StoreError, naming

__all__ = ["LEASE", "LOCKS", "InUseError", "lock_name", "locked"]

LOCKS = "locks"  # the folder of a store where they lie
LEASE = 60.0  # seconds; all processes must agree
PATIENCE = 0.1  # seconds, after which people are told what is waited for


def lock_name(kind: str, key: str) -> str:
    """Return the name of an artefact's lock in the folder `LOCKS` of its store."""
    return f"{kind}-{key}.lock"


class InUseError(Exception):
    """Another process holds the lock."""


@contextmanager
def locked(
    path: Path, waiting: Callable[[], None] | None = None, lease: float = LEASE
) -> Iterator[Callable[[], None]]:
    """Hold the locks of a name, and give a function that raises a `StoreError` where another
    machine has taken over meanwhile, as it does when this process stood still for long.

    Args:
        path: The file of the lock; the lease is beside it.
        waiting: Called when the lock has to be waited for; None: it is not waited for.
        lease: Seconds after which a lease that nobody touches is taken over.

    Raises:
        InUseError: Another process holds it, and `waiting` is None.
        StoreError: There can be no such file.
    """
    second = SoftFileLease(path.with_suffix(".lease"), lease_duration=lease)
    with ExitStack() as held:
        with naming(path, "locked"):
            path.parent.mkdir(parents=True, exist_ok=True)
            for lock in (FileLock(path), second):
                try:
                    lock.acquire(timeout=0 if waiting is None else PATIENCE)
                except Timeout as error:
                    if waiting is None:
                        raise InUseError(str(path)) from error
                    waiting()
                    lock.acquire()
                held.callback(lock.release)

        def check() -> None:
            if second.compromise is not None:
                raise StoreError(
                    f"{path.name}: another machine went on with this, as this process stood still "
                    f"for {lease:g} s or could not write: the same command finds what it makes."
                )

        yield check
