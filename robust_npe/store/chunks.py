"""Chunks of simulations: the parts that sets and shards are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from robust_npe.random import stream
from robust_npe.tasks.base import Task
from robust_npe.tasks.pairs import pairs_of

__all__ = ["ATTEMPTS", "CHUNK", "SimulationPlan"]

# Simulations per chunk. They are part of what a set is: each chunk has its own random stream.
CHUNK = 10_000
ATTEMPTS = 1_024  # of a task that rejects most of them, at high cost


@dataclass(frozen=True)
class SimulationPlan:
    """A simulation set that is to be made, as a sequence of independent chunks.

    Args:
        task: Prior and simulator.
        task_config: Everything that determines the task.
        split: What the set is for.
        num_simulations: Simulations to run, or accepted pairs to make if the task filters.
        seed: Seed of the set.
    """

    version: ClassVar[int] = 1  # raise it when the same arguments come to mean other pairs

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
            "class": type(self).__name__,
            "version": [self.version],
            "task": dict(self.task_config),
            "split": self.split,
            "num_simulations": self.num_simulations,
            "seed": self.seed,
            "chunk": self.size,
        }

    @property
    def size(self) -> int:
        """Simulations per chunk."""
        return ATTEMPTS if self.filters else self.task.chunk_size or CHUNK

    @property
    def num_chunks(self) -> int | None:
        """Number of chunks, None if it depends on how many simulations are accepted."""
        return None if self.filters else -(-self.num_simulations // self.size)

    def simulate(self, number: int) -> dict[str, np.ndarray]:
        """Simulate one chunk; its content depends on the description and `number` alone.

        Returns:
            The usable pairs `theta (n, D)` and `x (n, Dx)`, float32, finite and accepted;
            `num_simulated`; and `num_dropped`, how many were non-finite. The others were rejected.

        Raises:
            ConfigError: The task's simulator returns something else than it should.
        """
        start = number * self.size
        stop = start + self.size if self.filters else min(start + self.size, self.num_simulations)
        generator = stream(self.seed, "simulate", self.split, number)
        given = self.task, self.split, self.seed, slice(start, stop), generator
        theta, x, dropped = pairs_of(*given)
        size = len(theta) + dropped if self.task.knows("stored_pairs") else stop - start
        return {
            "theta": theta.numpy(),
            "x": x.numpy(),
            "num_simulated": np.array(size),
            "num_dropped": np.array(dropped),
        }
