"""Chunks of simulations: the pieces that sets and shards are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robust_npe.random import stream
from robust_npe.tasks.base import Task

__all__ = ["ATTEMPTS", "CHUNK", "Chunk", "Plan", "load_chunk", "save_chunk"]

# Simulations per chunk. They are part of what a set is: each chunk has its own random stream.
CHUNK = 10_000
ATTEMPTS = 1_024  # of a task that rejects most of them, at high cost


@dataclass(frozen=True)
class Chunk:
    """The usable pairs of one chunk.

    Attributes:
        theta: Shape `(n, D)`.
        x: Shape `(n, Dx)`, finite and accepted.
        num_simulated: Number of simulations that were run.
        num_dropped: How many of them were non-finite; the others were rejected by the task.
    """

    theta: Tensor
    x: Tensor
    num_simulated: int
    num_dropped: int


@dataclass(frozen=True)
class Plan:
    """A simulation set that is to be made, as a sequence of independent chunks.

    Args:
        task: Prior and simulator.
        task_config: Everything that determines the task.
        split: What the set is for.
        num_simulations: Simulations to run, or accepted pairs to make if the task filters.
        seed: Seed of the set.
    """

    task: Task
    task_config: Mapping[str, Any]
    split: str
    num_simulations: int
    seed: int

    @cached_property
    def filters(self) -> bool:
        """Whether the task rejects simulations."""
        return self.task.knows("simulate_and_filter")

    @property
    def description(self) -> dict[str, Any]:
        """Everything that determines the set."""
        return {
            "task": dict(self.task_config),
            "split": self.split,
            "num_simulations": self.num_simulations,
            "seed": self.seed,
            "chunk": ATTEMPTS if self.filters else CHUNK,
        }

    @property
    def num_chunks(self) -> int | None:
        """Number of chunks, None if it depends on how many simulations are accepted."""
        return None if self.filters else -(-self.num_simulations // CHUNK)

    def simulate(self, number: int) -> Chunk:
        """Simulate one chunk; its content depends on the description and `number` alone."""
        size = ATTEMPTS if self.filters else min(CHUNK, self.num_simulations - number * CHUNK)
        generator = stream(self.seed, "simulate", self.split, number)
        theta = self.task.sample_prior(size, generator)
        x, accepted = self.task.simulate_and_filter(theta, generator)
        finite = x.isfinite().all(1)
        keep = finite & accepted
        return Chunk(theta[keep], x[keep], size, int((~finite).sum()))


def save_chunk(chunk: Chunk, path: Path) -> None:
    """Write a chunk atomically."""
    temporary = path.with_name("." + path.name)
    counts = np.array([chunk.num_simulated, chunk.num_dropped])
    with temporary.open("wb") as file:
        np.savez(file, theta=chunk.theta.numpy(), x=chunk.x.numpy(), counts=counts)
    temporary.replace(path)


def load_chunk(path: Path) -> Chunk:
    """Read a chunk."""
    with np.load(path, allow_pickle=False) as stored:
        theta, x = (torch.from_numpy(stored[name]) for name in ("theta", "x"))
        simulated, dropped = stored["counts"].tolist()
    return Chunk(theta, x, simulated, dropped)
