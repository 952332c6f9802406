"""Pairs of parameters and observations from a task, checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from robust_npe.checks import ConfigError
from robust_npe.tasks.base import Task

__all__ = ["draw_pairs"]


def draw_pairs(task: Task, num: int, generator: Generator) -> tuple[Tensor, Tensor, int]:
    """Draw parameters from the prior and simulate an observation for each.

    Args:
        task: Prior and simulator.
        num: Number of simulations.
        generator: The only source of randomness.

    Returns:
        The usable pairs, float32, finite and accepted, `theta (n, D)` and `x (n, Dx)`; and how many
        simulations were non-finite. Those that are missing still were rejected.

    Raises:
        ConfigError: The task's simulator returns something else than it should.
    """
    theta = task.sample_prior(num, generator)
    accepted: Any = torch.ones(num, dtype=torch.bool)
    if task.knows("simulate_and_filter"):
        x, accepted = task.simulate_and_filter(theta, generator)
    else:
        x = task.simulate(theta, generator)
    x = _checked(task, "x", x, (num, task.dim_x)).float()
    theta = _checked(task, "theta", theta, (num, task.dim_theta)).float()
    finite = x.isfinite().all(1) & theta.isfinite().all(1)  # as float32, as they are stored
    keep = finite & _checked(task, "accepted", accepted, (num,)).bool()
    return theta[keep], x[keep], int((~finite).sum())


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
