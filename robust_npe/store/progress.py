"""How far a simulation is: counts of simulations, and a bar that shows them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tqdm import tqdm

from robust_npe.store.chunks import Chunk, Plan

__all__ = ["Counts", "progress_bar"]

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

    def add(self, chunk: Chunk) -> None:
        """Count one more chunk."""
        self.chunks += 1
        self.simulated += chunk.num_simulated
        self.accepted += len(chunk.x)
        self.dropped += chunk.num_dropped

    def check(self, plan: Plan) -> None:
        """Refuse to go on simulating for ever.

        Raises:
            ValueError: So far, nothing of what was simulated can be used.
        """
        limit = min(plan.num_chunks or PATIENCE, PATIENCE)
        if self.accepted or self.chunks < limit:
            return
        what = f"All {self.simulated} simulations of task {plan.task.name} are non-finite"
        if self.dropped < self.simulated:
            what += f" ({self.dropped}) or were rejected ({self.simulated - self.dropped})"
        raise ValueError(f"{what}: check its settings.")


@contextmanager
def progress_bar(plan: Plan, total: int) -> Iterator[Callable[[Counts], None]]:
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
