"""Errors that a user can act on."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

__all__ = ["ConfigError", "plain_file", "require"]


class ConfigError(ValueError):
    """A setting is wrong; the message names it, its value, and what was expected."""


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Raise a `ConfigError` unless the condition holds.

    Args:
        condition: What must be true of the value.
        name: Name of the setting as the user writes it, e.g. `beta`.
        value: What was received.
        expected: What is allowed, completing "must be ...".
    """
    if not condition:
        raise ConfigError(f"{name}={value!r} is not valid: it must be {expected}.")


def plain_file(path: str | Path, what: str, max_bytes: int) -> BinaryIO:
    """Open a regular file for reading, after checking what it is and how large it is.

    Opening does not wait for the other end of a named pipe, and what is checked is what was
    opened. A symbolic link is followed: what it points to must be a regular file.

    Args:
        path: The file.
        what: Name of the setting or of the file's role in messages, e.g. `task.decoder`.
        max_bytes: Largest size that is allowed.

    Raises:
        ConfigError: If there is no such file, it cannot be read, is larger, or is a folder, a
            device, a named pipe or a socket.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{what}={str(path)!r} cannot be read: {reason}.") from error
    status = os.fstat(descriptor)
    try:
        require(stat.S_ISREG(status.st_mode), what, str(path), "a regular file")
        expected = f"at most {max_bytes:,} bytes large, not {status.st_size:,}"
        require(status.st_size <= max_bytes, what, str(path), expected)
    except ConfigError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")
