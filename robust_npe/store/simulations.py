"""Simulation sets: pairs (theta, x) in two files, made chunk by chunk."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from robust_npe.checks import require_positive_integer
from robust_npe.files import require_space, write_atomically
from robust_npe.store.artefacts import Artefact, Store
from robust_npe.store.chunks import SimulationPlan
from robust_npe.store.manifests import CorruptArtefactError
from robust_npe.store.parts import PARTS, read_part
from robust_npe.store.progress import Counts, simulate_chunks
from robust_npe.store.shards import stored_chunks
from robust_npe.tasks.base import Task

__all__ = ["SimulationSet", "load_simulations", "simulations"]

log = logging.getLogger(__name__)

IN_MEMORY_BYTES = 2**29  # smaller arrays are read whole, larger ones mapped


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
        ConfigError: `num_simulations` is not positive, or the simulator gives nothing usable.
        StoreError: The set does not fit on the disk, or cannot be written or read.
    """
    require_positive_integer("num_simulations", num_simulations)
    plan = SimulationPlan(task, task_config, split, num_simulations, seed)
    artefact = store.get(
        "simulations",
        plan.description,
        lambda folder: _simulate(folder, plan, stored_chunks(store, plan)),
        resumable=True,
    )
    found, stored = load_simulations(artefact.path), task.knows("stored_pairs")
    made = "copied" if stored else "simulated"
    verb = made if artefact.created else "found"
    count = len(found.x) if stored else num_simulations  # who asks for too many gets all
    log.info("%s %d pairs (%s) in %s", verb, count, split, artefact.path)
    return found


def load_simulations(folder: Path) -> SimulationSet:
    """Read a finished simulation set; large arrays are mapped, not read.

    Raises:
        CorruptArtefactError: The set was changed after it had been stored.
    """
    artefact = Artefact(folder, folder.name, created=False).verify("theta.npy", "x.npy")
    theta, x = _load(folder / "theta.npy"), _load(folder / "x.npy")
    facts = artefact.manifest["facts"]
    try:
        pairs = SimulationSet(theta, x, **facts)
        rows = min(pairs.num_requested, pairs.num_accepted)
    except TypeError as error:
        raise CorruptArtefactError(f"{folder} has other facts than a simulation set.") from error
    if not len(theta) == len(x) == rows:
        raise CorruptArtefactError(
            f"{folder} holds {len(theta)} rows of theta and {len(x)} of x, its manifest says "
            f"{rows}: delete it and run again."
        )
    return pairs


def _load(path: Path) -> Tensor:
    # mapped copy-on-write: torch has no read-only tensors
    large = path.stat().st_size > IN_MEMORY_BYTES
    return torch.from_numpy(np.load(path, mmap_mode="c" if large else None, allow_pickle=False))


def _simulate(folder: Path, plan: SimulationPlan, stored: dict[int, Path]) -> dict[str, int]:
    """Write theta.npy and x.npy, from chunks that stay until both are complete."""
    size = plan.num_simulations
    require_space(folder, 4 * size * (plan.task.dim_theta + plan.task.dim_x))
    numbers = count() if plan.num_chunks is None else range(plan.num_chunks)
    counts, chunks = simulate_chunks(folder / PARTS, plan, numbers, size, stored)
    rows = min(counts.accepted, size)
    for name, dim in {"theta": plan.task.dim_theta, "x": plan.task.dim_x}.items():
        write_atomically(folder / f"{name}.npy", partial(_join, chunks, name, (rows, dim)))
    _report(plan, counts)
    return {
        "num_requested": size,
        "num_simulated": counts.simulated,
        "num_accepted": counts.accepted,
        "num_dropped": counts.dropped,
    }


def _join(chunks: list[Path], name: str, shape: tuple[int, int], file: BinaryIO) -> None:
    """Write an array of the chunks one after the other, cut off after the last row.

    The file is written, not mapped: on a full disk that is an error instead of a signal.
    """
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    left = shape[0]
    for path in chunks:
        block = read_part(path)[name][:left]
        file.write(block.astype("<f4").tobytes())
        left -= len(block)


def _report(plan: SimulationPlan, counts: Counts) -> None:
    """Say what became of the simulations."""
    if counts.dropped:
        log.warning(
            "%d of %d simulations are non-finite: left out", counts.dropped, counts.simulated
        )
    if not plan.filters and counts.simulated < plan.num_simulations:
        log.warning(
            "%d pairs (%s) were asked for, task %s has %d of them: all are taken",
            plan.num_simulations,
            plan.split,
            plan.task.name,
            counts.simulated,
        )
    if plan.filters:
        share = 100 * counts.accepted / counts.simulated
        log.info(
            "accepted %d of %d simulations (%.1f %%)", counts.accepted, counts.simulated, share
        )
