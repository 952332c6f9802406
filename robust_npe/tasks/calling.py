"""Calling a function of the user's own: reproducibly, on all cores, with errors of one line."""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pickle import PicklingError
from typing import Any

import numpy as np
import torch
from joblib import Parallel, cpu_count, delayed
from torch import Generator, Tensor

from robust_npe.checks import ConfigError
from robust_npe.consent import VARIABLE, resolve
from robust_npe.random import every_draw_from
from robust_npe.tasks.precision import check_resolution

__all__ = ["ARRAYS", "Function", "call", "wants_arguments"]

ARRAYS = ("numpy", "torch")
PRECISE = (torch.float64, torch.int64, torch.int32)  # of which float32 may lose something


@dataclass(frozen=True)
class Function:
    """A function of theta, called with the arrays it understands.

    Args:
        source: The function, or its name `module:name`, which other processes can look up.
        name: What to call it in messages.
        array: Whether it is given tensors of torch or arrays (of float64) of numpy.
        vectorized: Whether it maps theta `(B, D)` to x `(B, ...)`, or each theta `(D,)` by itself.
    """

    source: Callable[[Any], Any] | str
    name: str
    array: str
    vectorized: bool

    def __call__(self, theta: Tensor, generator: Generator) -> Tensor:
        """Return x `(B, ...)`, float32, for theta `(B, D)`.

        One at a time, each theta has random numbers of its own, so that the result does not depend
        on how many of them are computed at once.

        Raises:
            ConfigError: The function raises something, or returns no array of this shape.
        """
        size = len(theta) if self.vectorized else 1
        seeds = torch.randint(2**62, (len(theta) // size,), generator=generator).tolist()
        jobs = list(zip(theta if size == 1 else [theta], seeds, strict=True))
        if min(cpu_count(), len(jobs)) > 1:
            xs = self._on_all_cores(jobs)
        else:
            xs = [_simulated(self, *job) for job in jobs]
        return self._joined(xs, len(theta))

    def _on_all_cores(self, jobs: list[tuple[Tensor, int]]) -> list[Tensor]:
        modules = os.environ.get(VARIABLE, "")
        try:  # loky's workers do not run the script again that started them
            parallel = Parallel(n_jobs=-1, backend="loky")
            return list(parallel(delayed(_elsewhere)(self, modules, *job) for job in jobs))
        except BrokenProcessPool as error:
            raise ConfigError(
                f"{self.name}: a process that ran it ended, by a crash or for want of memory."
            ) from error
        except PicklingError as error:
            raise ConfigError(
                f"{self.name} cannot be sent to other processes: define it at the top of a module."
            ) from error

    def _joined(self, xs: list[Tensor], num: int) -> Tensor:
        if not self.vectorized:
            shapes = sorted({tuple(x.shape) for x in xs})
            if len(shapes) > 1:
                raise ConfigError(
                    f"{self.name} returned x of different shapes: {shapes[0]} and {shapes[1]}."
                )
            x = torch.stack(xs)
        else:
            (x,) = xs
            if x.ndim == 0 or len(x) != num:
                raise ConfigError(
                    f"{self.name} returned x of shape {tuple(x.shape)} for {num} parameters, "
                    f"expected ({num}, ...): one row each. A function of one theta (D,) needs "
                    "task.vectorized=false."
                )
        x = x.unsqueeze(1) if x.ndim == 1 else x
        if x.dtype in PRECISE:
            check_resolution(x.numpy(), self.name)
        return x.float()


def call(function: Callable[..., Any], name: str, array: str, *given: Tensor) -> Any:
    """Call a function with copies of tensors, as the arrays that it understands.

    Raises:
        ConfigError: It raises something; the message names the error and its place.
    """
    arrays = [t.detach().double().numpy().copy() if array == "numpy" else t.clone() for t in given]
    try:
        return function(*arrays)
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        file = getattr(getattr(function, "__code__", None), "co_filename", None)
        place = next((frame for frame in reversed(frames) if frame.filename == file), frames[-1])
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"{name} raised {what} ({place.filename}, line {place.lineno})."
        ) from error


def wants_arguments(function: Callable[..., Any]) -> bool:
    """Tell whether a function cannot be called without arguments, as far as it is known."""
    try:
        inspect.signature(function).bind()
    except TypeError:
        return True
    except ValueError:  # of some functions written in C nobody knows
        return False
    return False


def _simulated(function: Function, theta: Tensor, seed: int) -> Tensor:
    source = function.source
    called = resolve(source, "task.simulator") if isinstance(source, str) else source
    with every_draw_from(Generator().manual_seed(seed)), torch.no_grad():
        x = call(called, function.name, function.array, theta)
    return _as_tensor(x, function.name)


def _elsewhere(function: Function, modules: str, theta: Tensor, seed: int) -> Tensor:
    """As `_simulated`, in another process, which has the consent of the one that started it."""
    os.environ[VARIABLE] = modules
    torch.set_num_threads(1)
    return _simulated(function, theta, seed)


def _as_tensor(x: Any, name: str) -> Tensor:
    found = f"{type(x).__name__} of {x.dtype}" if hasattr(x, "dtype") else type(x).__name__
    if not isinstance(x, Tensor):
        try:
            array = np.asarray(x)
        except ValueError:  # lists of different lengths
            array = np.asarray(None)
        kept = np.float32 if array.dtype == np.float32 else np.float64
        x = torch.from_numpy(array.astype(kept)) if array.dtype.kind in "fiub" else None
    if x is None or x.is_complex():
        raise ConfigError(f"{name} returned {found}, expected an array of real numbers.")
    return x.detach().cpu()
