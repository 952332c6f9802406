"""Pairs of parameters and observations from a task, checked."""

from __future__ import annotations

import traceback
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from robust_npe.checks import ConfigError
from robust_npe.tasks.base import Task

__all__ = ["draw_pairs", "pairs_of"]


def pairs_of(
    task: Task, split: str, seed: int, rows: slice, generator: Generator
) -> tuple[Tensor, Tensor, int]:
    """Return pairs of a split: rows of it where the task stores them, else new simulations.

    Args:
        task: Prior and simulator, or stored pairs.
        split: `train`, `validation` or `test`.
        seed: Seed of the splits of what is stored.
        rows: Which pairs; new ones are as many.
        generator: Randomness of new ones.

    Returns:
        As `draw_pairs`.
    """
    if not task.knows("stored_pairs"):
        return draw_pairs(task, rows.stop - rows.start, generator)
    theta, x = task.stored_pairs(split, seed, rows)
    finite = x.isfinite().all(1) & theta.isfinite().all(1)
    return theta[finite], x[finite], int((~finite).sum())


def draw_pairs(task: Task, num: int, generator: Generator) -> tuple[Tensor, Tensor, int]:
    """Draw parameters from the prior and simulate an observation for each.

    Args:
        task: Prior and simulator.
        num: Number of simulations.
        generator: The only source of randomness.

    Returns:
        The usable pairs, float32, finite and accepted, `theta (n, D)` and `x (n, Dx)`; and how many
        simulations were non-finite. Those that are missing still were rejected. Of a task that
        cannot simulate they are the first of its pairs for training.

    Raises:
        ConfigError: The task's simulator fails, or returns something else than it should.
    """
    if task.knows("stored_pairs"):
        return pairs_of(task, "train", 0, slice(0, num), generator)
    theta, x, accepted = _simulated(task, num, generator)
    x = _checked(task, "x", x, (num, task.dim_x)).float()
    theta = _checked(task, "theta", theta, (num, task.dim_theta)).float()
    finite = x.isfinite().all(1) & theta.isfinite().all(1)  # as float32, as they are stored
    keep = finite & _checked(task, "accepted", accepted, (num,)).bool()
    return theta[keep], x[keep], int((~finite).sum())


def _simulated(task: Task, num: int, generator: Generator) -> tuple[Tensor, Any, Any]:
    """Simulate; what a user's own code raises is told in one line, with its place."""
    try:
        theta = task.sample_prior(num, generator)
        if task.knows("simulate_and_filter"):
            return theta, *task.simulate_and_filter(theta, generator)
        return theta, task.simulate(theta, generator), torch.ones(num, dtype=torch.bool)
    except (Exception, SystemExit) as error:
        if type(task).__module__.startswith("robust_npe."):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"task {task.name}: its simulator raised {type(error).__name__}: {error} "
            f"({place.filename}, line {place.lineno})."
        ) from error


def _checked(task: Task, name: str, values: Any, shape: tuple[int, ...]) -> Tensor:
    """Return what a simulator gave as a tensor without graph on the CPU; arrays will do."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        values = torch.from_numpy(values.astype(np.float64))
    if not isinstance(values, Tensor) or values.is_complex() or values.shape != shape:
        found = f" {tuple(values.shape)} of {values.dtype}" if hasattr(values, "shape") else ""
        raise ConfigError(
            f"task {task.name}: its simulator gives {name} as {type(values).__name__}{found}, "
            f"expected a tensor of real numbers of shape {shape}, one row per simulation."
        )
    return values.detach().cpu()
