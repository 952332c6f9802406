"""Checkpoints: where a training stands, in one file that is whole or absent, and runs no code."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from robust_npe.checks import ConfigError
from robust_npe.files import StoreError, open_plain, write_atomically
from robust_npe.interruption import deferred_interruption
from robust_npe.states import Stateful

__all__ = ["Checkpoint", "Resumable", "pack", "resumed", "unpack"]

log = logging.getLogger(__name__)

DIGEST = hashlib.sha256().digest_size
VALUES = "values"  # key of what is not a tensor, in the metadata of safetensors
SEPARATOR = "/"


class Resumable(Stateful, Protocol):
    """The state of a training, or of an inference in the place of one."""

    @property
    def where(self) -> str:
        """Where it stands, for people, such as `epoch 3`."""


class Checkpoint:
    """Keeps the state of one training in a file, so that a killed process costs little.

    Args:
        path: The file.
        every: Seconds of work between two writes; None to write none in between.

    Attributes:
        seconds: How long earlier processes worked on this training, up to what was taken over.
    """

    def __init__(self, path: Path, every: float | None = 30.0) -> None:
        self.path = path
        self.every = every
        self.seconds = 0.0
        self._started = self._written = time.monotonic()  # no wall clock: those jump

    def restore(self, state: Resumable) -> bool:
        """Let a state newly made from equal arguments go on from the file, if it is there.

        A damaged file, or one that another version of the code wrote, is set aside with a warning.

        Returns:
            Whether training goes on rather than starts.

        Raises:
            StoreError: It is no plain file, or cannot be read.
        """
        self._started = self._written = time.monotonic()
        if not (self.path.exists() or self.path.is_symlink()):
            return False
        with open_plain(self.path, "checkpoint") as file:
            content = file.read()
        try:
            stored = unpack(content)
            state.load_state_dict(stored["training"])
            self.seconds = float(stored["seconds"])
        except (ConfigError, KeyError, ValueError) as error:
            aside = self.path.with_name(f"{self.path.name}.damaged")
            self.path.replace(aside)
            log.warning(
                "%s cannot be used (%s): set aside as %s, training starts from the beginning",
                self.path,
                error,
                aside.name,
            )
            return False
        log.info("going on in %s, where training was interrupted", state.where)
        return True

    def write_if_due(self, state: Resumable) -> None:
        """Write the state if the last write, or the start, is longer ago than the interval."""
        if self.every is not None and time.monotonic() - self._written >= self.every:
            self.write(state)

    def write(self, state: Resumable) -> None:
        """Write the state, in place of an earlier one.

        A disk that is full stops no training: there is a warning, and the earlier one stays.
        """
        seconds = self.seconds + time.monotonic() - self._started
        try:
            write_atomically(self.path, pack({"training": state.state_dict(), "seconds": seconds}))
        except StoreError as error:
            log.warning("no checkpoint: %s", error)
        self._written = time.monotonic()


@contextmanager
def resumed(checkpoint: Checkpoint | None, state: Resumable) -> Iterator[Callable[[], None]]:
    """Go on from a checkpoint, and give what is to be called after each step: it writes the state
    when it is time to, and lets Ctrl-C and SIGTERM take effect, with a last checkpoint.

    Args:
        checkpoint: None for no file; signals then take effect anywhere.
        state: As for `Checkpoint.restore`.
    """
    if checkpoint is None:
        yield lambda: None
        return
    checkpoint.restore(state)
    with deferred_interruption() as interruption:

        def after_step() -> None:
            if interruption:
                checkpoint.write(state)
                interruption.take_effect()
            interruption.can_wait = True  # unlike the first step, which may compile for minutes
            checkpoint.write_if_due(state)

        yield after_step


def pack(state: Mapping[str, Any]) -> bytes:
    """Return nested dictionaries of tensors and plain values as bytes: those of a safetensors file,
    which has the values in its metadata, and their SHA-256."""
    flat = dict(_flatten(state))
    tensors = {
        key: value.detach().cpu().contiguous().clone()
        for key, value in flat.items()
        if isinstance(value, Tensor)
    }
    values = {key: value for key, value in flat.items() if key not in tensors}
    content = save(tensors, {VALUES: json.dumps(values)})
    return content + hashlib.sha256(content).digest()


def unpack(content: bytes) -> dict[str, Any]:
    """Return what was packed.

    Raises:
        ValueError: The bytes are not those that were packed.
    """
    body, digest = content[:-DIGEST], content[-DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        raise ValueError("it is damaged")
    try:
        tensors = {key: torch.as_tensor(value) for key, value in load(body).items()}
    except SafetensorError as error:
        raise ValueError(f"it is no file of tensors: {error}") from error
    length = int.from_bytes(body[:8], "little")
    header = json.loads(body[8 : 8 + length])
    return _nested({**tensors, **json.loads(header["__metadata__"][VALUES])})


def _flatten(state: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in state.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}{SEPARATOR}")
        else:
            yield f"{prefix}{key}", value


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split(SEPARATOR)
        part = nested
        for key in parents:
            part = part.setdefault(key, {})
        part[last] = value
    return nested
