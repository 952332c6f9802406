"""Files that others may have left, or may be reading: bounded plain reads, atomic writes."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from robust_npe.checks import ConfigError

__all__ = [
    "StoreError",
    "file_digest",
    "naming",
    "open_plain",
    "plain_file",
    "read_plain",
    "refuse_links",
    "require_space",
    "write_atomically",
]

TEMPORARY = ".new"  # suffix of files that are being written

_REMEDIES = {
    errno.ENOSPC: "Free some space and repeat the command: what is finished is kept.",
    errno.EDQUOT: "Free some space and repeat the command: what is finished is kept.",
    errno.ELOOP: "Symbolic links are not followed here: remove it.",
    errno.ENOENT: "Repeat the command that made it.",
}


class StoreError(RuntimeError):
    """A file cannot be read or written; the message names it and says what to do."""


@contextmanager
def naming(path: Path, verb: str) -> Iterator[None]:
    """Turn errors of the operating system into a `StoreError` that names the path.

    Args:
        path: What is worked on.
        verb: What is done to it, completing "cannot be ...".
    """
    try:
        yield
    except OSError as error:
        remedy = "Check its permissions, or use another output_dir."
        if error.errno != errno.ENOENT or verb == "read":
            remedy = _REMEDIES.get(error.errno or 0, remedy)
        raise StoreError(f"{path} cannot be {verb}: {error.strerror}. {remedy}") from error


def open_plain(path: Path, what: str, max_bytes: int | None = None) -> BufferedReader:
    """Open a file for reading if it is a plain one: no link, device, pipe or folder.

    The opened file itself is checked, so it cannot be exchanged in between.

    Args:
        path: The file.
        what: What it is meant to be, for the message, e.g. `manifest`.
        max_bytes: Largest size allowed, None for any.

    Raises:
        StoreError: It is not plain, too large, or cannot be read.
    """
    with naming(path, "read"):
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW  # a pipe without writer would block
        descriptor = os.open(path, flags)
    status, problem = os.fstat(descriptor), ""
    if not stat.S_ISREG(status.st_mode):
        problem = f"is not a plain file, as a {what} must be"
    elif max_bytes is not None and status.st_size > max_bytes:
        problem = f"has {status.st_size} bytes; a {what} has at most {max_bytes}"
    if problem:
        os.close(descriptor)
        raise StoreError(f"{path} {problem}: remove it.")
    return os.fdopen(descriptor, "rb")


def plain_file(path: str | Path, name: str, max_bytes: int) -> BufferedReader:
    """Open a file that a setting names: as `open_plain`, but through links.

    Args:
        path: The file.
        name: Name of the setting, e.g. `task.decoder`.
        max_bytes: Largest size allowed.

    Raises:
        ConfigError: It is not plain, too large, or cannot be read.
    """
    try:
        return open_plain(Path(path).resolve(), "file", max_bytes)
    except (StoreError, ValueError, RuntimeError) as error:  # a null character, a loop of links
        expected = f"a plain file of at most {max_bytes} bytes that can be read"
        cause = getattr(error.__cause__, "strerror", None) or str(error).rstrip(".")
        raise ConfigError(
            f"{name}={str(path)!r} is not valid: it must be {expected} ({cause})."
        ) from error


def file_digest(path: str | Path, name: str, max_bytes: int) -> str:
    """Return the SHA-256 of a file that a setting names; arguments and errors as for
    `plain_file`."""
    with plain_file(path, name, max_bytes) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_plain(path: Path, what: str, max_bytes: int) -> bytes:
    """Read a plain file of bounded size; arguments and errors as for `open_plain`."""
    with open_plain(path, what, max_bytes) as file, naming(path, "read"):
        return file.read(max_bytes)


def refuse_links(path: Path) -> None:
    """Check that neither a path nor anything below it is a symbolic link.

    Raises:
        StoreError: There is one; it could make us overwrite a file that lies elsewhere.
    """
    with naming(path, "read"):
        links = [p for p in (path, *path.rglob("*")) if p.is_symlink()]
    if links:
        raise StoreError(
            f"{links[0]} is a symbolic link, which a store does not follow: remove it."
        )


def require_space(folder: Path, num_bytes: int) -> None:
    """Check that so many bytes fit on the disk.

    Raises:
        StoreError: They do not.
    """
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise StoreError(
            f"{folder} needs {num_bytes / 1e9:.3g} GB, but {free / 1e9:.3g} GB are free: "
            "free some space, use another output_dir, or ask for less."
        )


def write_atomically(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file so that others see the old one, or all of the new one, or nothing.

    The temporary file lies in the same folder under a name of its own, so several processes may
    write the same path at once: the last one wins. Missing folders are made.

    Args:
        path: Where the file goes.
        content: Its bytes, or a function that writes them into the binary file it is given.

    Raises:
        StoreError: The disk is full, or the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{TEMPORARY}")
    try:
        with naming(path, "written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                file.write(content) if isinstance(content, bytes) else content(file)
            temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
