"""Making chunks of simulations one after the other: what became of them, and how far it is."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from robust_npe.checks import ConfigError
from robust_npe.store.chunks import SimulationPlan
from robust_npe.store.parts import part, read_part

__all__ = ["Counts", "simulate_chunks"]

PATIENCE = 20  # chunks without a single usable pair before giving up


@dataclass
class Counts:
    """What became of the simulations of some chunks.

    Attributes:
        chunks: Number of chunks.
        simulated: Number of simulations that were run.
        accepted: How many of them are finite and were accepted by the task.
        dropped: How many of them were non-finite.
    """

    chunks: int = 0
    simulated: int = 0
    accepted: int = 0
    dropped: int = 0

    def add(self, chunk: Mapping[str, np.ndarray]) -> None:
        """Count one more chunk."""
        self.chunks += 1
        self.simulated += int(chunk["num_simulated"])
        self.accepted += len(chunk["x"])
        self.dropped += int(chunk["num_dropped"])

    def check(self, plan: SimulationPlan) -> None:
        """Refuse to go on simulating for ever.

        Raises:
            ConfigError: So far, nothing of what was simulated can be used.
        """
        limit = min(plan.num_chunks or PATIENCE, PATIENCE)
        if self.accepted or self.chunks < limit:
            return
        what = f"All {self.simulated} simulations of task {plan.task.name} are non-finite"
        if self.dropped < self.simulated:
            what += f" ({self.dropped}) or were rejected ({self.simulated - self.dropped})"
        raise ConfigError(f"{what}: check its settings.")


def simulate_chunks(
    folder: Path,
    plan: SimulationPlan,
    numbers: Iterable[int],
    wanted: int,
    stored: Mapping[int, Path] | None = None,
) -> tuple[Counts, list[Path]]:
    """Simulate chunks into a folder, except those that are there (or elsewhere) already.

    Args:
        folder: Where the chunks go; removed if none of them is of any use.
        plan: The whole set.
        numbers: Which chunks; of a task that filters, as many as it takes.
        wanted: Number of simulations, of accepted pairs if the task filters.
        stored: Files of chunks that lie elsewhere.

    Raises:
        ConfigError: Nothing of what was simulated can be used.
    """
    counts, paths = Counts(), []
    with _progress_bar(plan, wanted) as show:
        for number in numbers:
            if stored and number in stored:
                path = stored[number]
                counts.add(read_part(path))
            else:
                path = folder / f"chunk_{number:06d}.npz"
                counts.add(part(path, partial(plan.simulate, number)))
            paths.append(path)
            try:
                counts.check(plan)
            except ConfigError:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            show(counts)
            if plan.filters and counts.accepted >= wanted:
                break
    return counts, paths


@contextmanager
def _progress_bar(plan: SimulationPlan, total: int) -> Iterator[Callable[[Counts], None]]:
    """Show a bar on a terminal; the function it gives is told the counts so far."""
    hidden = not sys.stderr.isatty() or plan.num_chunks == 1
    unit = "pair" if plan.filters else "sim"
    bar = tqdm(total=total, desc=f"simulate {plan.split}", unit=unit, disable=hidden)

    def show(counts: Counts) -> None:
        bar.n = min(total, counts.accepted if plan.filters else counts.simulated)
        if plan.filters:
            share = counts.accepted / max(1, counts.simulated)
            bar.set_postfix_str(f"{share:.1%} of {counts.simulated} accepted", refresh=False)
        bar.refresh()

    try:
        yield show
    finally:
        bar.close()
