"""Checkpoints: an interrupted training goes on where it was, and ends with the same weights."""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from robust_npe.checks import ConfigError, require
from robust_npe.files import write_atomically
from robust_npe.training.state import TrainingState

__all__ = ["Checkpoint"]

log = logging.getLogger(__name__)

VALUES, DIGEST = "values", "sha256"  # in the metadata of the file; numbers and lists are JSON
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Checkpoint:
    """The file that holds the state of a training.

    It is written between two steps, whenever enough time has passed since the last time, and at the
    first Ctrl-C or SIGTERM, which takes effect after that; a second one does so at once. It is
    written atomically: a process that is killed leaves the one before.

    Args:
        path: A safetensors file, of which nothing is executed; None keeps nothing.
        interval: Seconds between two writes; None writes at signals only.
    """

    def __init__(self, path: Path | None = None, interval: float | None = 30.0) -> None:
        require(interval is None or interval >= 0, "checkpoint_every", interval, "seconds or null")
        self.path = path
        self.interval = interval
        self._written = time.monotonic()
        self._signal: tuple[int, FrameType | None] | None = None
        self._handlers: dict[int, Any] = {}

    @contextmanager
    def keeping(self, state: TrainingState) -> Iterator[None]:
        """Take over what is stored, if it fits, and postpone signals until a step is done."""
        if self.path is None:
            yield
            return
        self._load(state, self.path)
        self._written = time.monotonic()
        with self._postponed_signals():
            yield

    def step_done(self, state: TrainingState) -> None:
        """Write the state where it is time to, and let a signal take effect."""
        if self.path is None:
            return
        late = self.interval is not None and time.monotonic() - self._written >= self.interval
        if late or self._signal is not None:
            _write(state.state_dict(), self.path)
            self._written = time.monotonic()
        self._deliver()

    def _load(self, state: TrainingState, path: Path) -> None:
        if not path.exists():
            return
        try:
            state.load_state_dict(_read(path))
        except (ConfigError, SafetensorError, OSError, ValueError, KeyError) as error:
            log.warning("%s cannot be used, training starts anew: %s", path, error)
            return
        log.info("training goes on in epoch %d", state.epoch)

    @contextmanager
    def _postponed_signals(self) -> Iterator[None]:
        """Where Python handles them: what is ignored, or ends the process, stays as it is."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._handlers = {number: signal.getsignal(number) for number in SIGNALS}
        handled = [number for number, handler in self._handlers.items() if callable(handler)]
        for number in handled:
            signal.signal(number, self._receive)
        try:
            yield
            self._deliver()
        finally:
            for number in handled:
                signal.signal(number, self._handlers[number])

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._signal is None:
            self._signal = number, frame
        else:
            self._handlers[number](number, frame)

    def _deliver(self) -> None:
        if self._signal is not None:
            (number, frame), self._signal = self._signal, None
            self._handlers[number](number, frame)


def _write(state: Mapping[str, Any], path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    values = json.dumps(_split(state, "", tensors))
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {VALUES: values, DIGEST: _digest(values, tensors)}
    write_atomically(path, save(tensors, metadata))


def _digest(values: str, tensors: Mapping[str, Tensor]) -> str:
    """Return a checksum: safetensors itself has none."""
    found = hashlib.sha256(values.encode())
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].numpy().tobytes())
    return found.hexdigest()


def _split(state: Mapping[str, Any], prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Put the tensors of nested dictionaries into `tensors`, and return all else."""
    values: dict[str, Any] = {}
    for key, value in state.items():
        name = f"{prefix}/{key}"
        if isinstance(value, Tensor):
            tensors[name] = value.detach().cpu().contiguous().clone()
        else:
            values[key] = _split(value, name, tensors) if isinstance(value, Mapping) else value
    return values


def _read(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: torch.as_tensor(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    if metadata.get(DIGEST) != _digest(metadata.get(VALUES, ""), tensors):
        raise ValueError("it does not match its checksum")
    state: dict[str, Any] = json.loads(metadata[VALUES])
    for name, tensor in tensors.items():
        *parents, last = name.split("/")[1:]
        node = state
        for key in parents:
            node = node[key]
        node[last] = tensor
    return state
