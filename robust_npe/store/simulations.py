"""Simulation sets: pairs (theta, x) in memory-mapped files, written chunk by chunk."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from robust_npe.checks import require
from robust_npe.store.artefacts import Store
from robust_npe.store.chunks import Plan
from robust_npe.store.progress import Counts, progress_bar
from robust_npe.store.shards import chunk_of, stored_chunks
from robust_npe.tasks.base import Task

__all__ = ["SimulationSet", "load_simulations", "simulations"]

log = logging.getLogger(__name__)

IN_MEMORY_BYTES = 2**29  # smaller arrays are read whole, larger ones mapped
COPIED_ROWS = 10_000  # at once
PROGRESS = "counts.json"


@dataclass(frozen=True)
class SimulationSet:
    """Pairs of parameters and finite observations.

    Attributes:
        theta: Shape `(N, D)`.
        x: Shape `(N, Dx)`.
        num_requested: Number of simulations that were asked for; of accepted pairs if the task
            filters.
        num_simulated: Number of simulations that were run.
        num_accepted: How many of them were accepted; where the task filters, those that are too
            many are left out.
        num_dropped: How many of them had non-finite values and were left out.
    """

    theta: Tensor
    x: Tensor
    num_requested: int
    num_simulated: int
    num_accepted: int
    num_dropped: int


def simulations(
    store: Store,
    task: Task,
    task_config: Mapping[str, Any],
    split: str,
    num_simulations: int,
    seed: int,
) -> SimulationSet:
    """Return a simulation set from the store, simulating it (or what is missing of it) if needed.

    The same arguments give the same bytes, whether or not the simulation was interrupted, and
    whether or not parts of it were simulated as shards before.

    Args:
        store: Where sets are kept.
        task: Prior and simulator.
        task_config: Everything that determines the task, part of the set's identity.
        split: What the set is for: `train`, `validation` or `test`. Splits are independent.
        num_simulations: Number of simulations to run. A task that filters is simulated until
            there are so many accepted pairs.
        seed: Seed of the set.

    Raises:
        ConfigError: `num_simulations` is not positive.
        ValueError: Every simulation was non-finite or rejected.
    """
    require(num_simulations > 0, "num_simulations", num_simulations, "a positive integer")
    plan = Plan(task, task_config, split, num_simulations, seed)
    artefact = store.get(
        "simulations",
        plan.description,
        lambda folder: _simulate(folder, plan, stored_chunks(store, plan)),
        resumable=True,
    )
    verb = "simulated" if artefact.created else "found"
    log.info("%s %d pairs (%s) in %s", verb, num_simulations, split, artefact.path)
    return load_simulations(artefact.path)


def load_simulations(folder: Path) -> SimulationSet:
    """Read a finished simulation set; large arrays are mapped, not read."""
    facts = json.loads((folder / "manifest.json").read_text())["facts"]
    return SimulationSet(theta=_load(folder / "theta.npy"), x=_load(folder / "x.npy"), **facts)


def _load(path: Path) -> Tensor:
    # mapped copy-on-write: torch has no read-only tensors
    large = path.stat().st_size > IN_MEMORY_BYTES
    return torch.from_numpy(np.load(path, mmap_mode="c" if large else None, allow_pickle=False))


def _simulate(folder: Path, plan: Plan, stored: dict[int, Path]) -> dict[str, int]:
    """Write theta.npy and x.npy, continuing after the last complete chunk."""
    counts, size = _counts_of(folder), plan.num_simulations
    if not counts.chunks:
        _create(folder / "theta.npy", (size, plan.task.dim_theta))
        _create(folder / "x.npy", (size, plan.task.dim_x))
    else:
        log.info("resuming an interrupted simulation after %d chunks", counts.chunks)
    with progress_bar(plan, size) as bar:
        while not _complete(counts, plan):
            chunk, start = chunk_of(plan, counts.chunks, stored), counts.accepted
            rows = min(len(chunk.x), size - start)
            _put(folder / "theta.npy", start, chunk.theta[:rows])
            _put(folder / "x.npy", start, chunk.x[:rows])
            counts.add(chunk)
            counts.check(plan)
            _save_counts(folder, counts)
            bar(counts)
    (folder / PROGRESS).unlink()
    return _finish(folder, plan, counts)


def _complete(counts: Counts, plan: Plan) -> bool:
    if plan.num_chunks is None:
        return counts.accepted >= plan.num_simulations
    return counts.chunks == plan.num_chunks


def _create(path: Path, shape: tuple[int, int]) -> None:
    open_memmap(path, mode="w+", dtype=np.float32, shape=shape)


def _put(path: Path, start: int, rows: Tensor) -> None:
    """Write rows; the file is mapped for this only, so that memory does not grow with it."""
    array = open_memmap(path, mode="r+")
    array[start : start + len(rows)] = rows.numpy()
    array.flush()


def _counts_of(folder: Path) -> Counts:
    path = folder / PROGRESS
    return Counts(**json.loads(path.read_text())) if path.exists() else Counts()


def _save_counts(folder: Path, counts: Counts) -> None:
    temporary = folder / (PROGRESS + ".new")
    temporary.write_text(json.dumps(asdict(counts)))
    temporary.replace(folder / PROGRESS)


def _finish(folder: Path, plan: Plan, counts: Counts) -> dict[str, int]:
    """Cut the files off after the last pair, and report what became of the simulations."""
    if counts.dropped:
        log.warning(
            "%d of %d simulations are non-finite: left out", counts.dropped, counts.simulated
        )
    if plan.filters:
        share = 100 * counts.accepted / counts.simulated
        log.info(
            "accepted %d of %d simulations (%.1f %%)", counts.accepted, counts.simulated, share
        )
    if counts.accepted < plan.num_simulations:
        for name in ("theta.npy", "x.npy"):
            _shorten(folder / name, counts.accepted)
    return {
        "num_requested": plan.num_simulations,
        "num_simulated": counts.simulated,
        "num_accepted": counts.accepted,
        "num_dropped": counts.dropped,
    }


def _shorten(path: Path, rows: int) -> None:
    """Keep the first rows of a file."""
    temporary = path.with_name("kept_" + path.name)
    _create(temporary, (rows, np.load(path, mmap_mode="r").shape[1]))
    for start in range(0, rows, COPIED_ROWS):
        block = np.load(path, mmap_mode="r")[start : min(start + COPIED_ROWS, rows)]
        _put(temporary, start, torch.from_numpy(block.copy()))
    temporary.replace(path)
