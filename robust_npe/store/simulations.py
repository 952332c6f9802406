"""Simulation sets: pairs (theta, x) in memory-mapped files, written chunk by chunk."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor
from tqdm import tqdm

from robust_npe.checks import require
from robust_npe.random import stream
from robust_npe.store.artefacts import Store
from robust_npe.tasks.base import Task

__all__ = ["CHUNK", "SimulationSet", "load_simulations", "simulations"]

log = logging.getLogger(__name__)

CHUNK = 10_000  # rows per chunk: part of what a set is, since each chunk has its own random stream
IN_MEMORY_BYTES = 2**29  # smaller arrays are read whole, larger ones mapped
PROGRESS = "progress.json"


@dataclass(frozen=True)
class SimulationSet:
    """Pairs of parameters and finite observations.

    Attributes:
        theta: Shape `(N, D)`.
        x: Shape `(N, Dx)`.
        num_requested: Number of simulations that were run.
        num_dropped: How many of them had non-finite values and were left out.
    """

    theta: Tensor
    x: Tensor
    num_requested: int
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

    The same arguments give the same bytes, whether or not the simulation was interrupted.

    Args:
        store: Where sets are kept.
        task: Prior and simulator.
        task_config: Everything that determines the task, part of the set's identity.
        split: What the set is for: `train`, `validation` or `test`. Splits are independent.
        num_simulations: Number of simulations to run.
        seed: Seed of the set.

    Raises:
        ConfigError: `num_simulations` is not positive.
        ValueError: Every simulation was non-finite.
    """
    require(num_simulations > 0, "num_simulations", num_simulations, "a positive integer")
    description = {
        "task": dict(task_config),
        "split": split,
        "num_simulations": num_simulations,
        "seed": seed,
        "chunk": CHUNK,
    }
    artefact = store.get(
        "simulations",
        description,
        lambda folder: _simulate(folder, task, split, num_simulations, seed),
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


def _simulate(
    folder: Path, task: Task, split: str, num_simulations: int, seed: int
) -> dict[str, int]:
    """Write theta.npy and x.npy, continuing after the last complete chunk."""
    done = _chunks_done(folder)
    mode = "r+" if done else "w+"
    theta = _array(folder / "theta.npy", (num_simulations, task.dim_theta), mode)
    x = _array(folder / "x.npy", (num_simulations, task.dim_x), mode)
    starts = range(0, num_simulations, CHUNK)
    if done:
        log.info("resuming an interrupted simulation after %d of %d chunks", done, len(starts))
    hidden = not sys.stderr.isatty() or len(starts) == 1
    progress = tqdm(total=num_simulations, desc=f"simulate {split}", unit="sim", disable=hidden)
    for chunk, start in enumerate(starts):
        stop = min(start + CHUNK, num_simulations)
        if chunk >= done:
            generator = stream(seed, "simulate", split, chunk)
            theta_chunk = task.sample_prior(stop - start, generator)
            theta[start:stop] = theta_chunk.numpy()
            x[start:stop] = task.simulate(theta_chunk, generator).numpy()
            theta.flush()
            x.flush()
            _write_progress(folder, chunk + 1)
        progress.update(stop - start)
    progress.close()
    del theta, x
    (folder / PROGRESS).unlink()
    return _drop_non_finite(folder, task, num_simulations)


def _array(path: Path, shape: tuple[int, int], mode: Any) -> np.memmap:
    if mode == "r+":
        return open_memmap(path, mode=mode)
    return open_memmap(path, mode=mode, dtype=np.float32, shape=shape)


def _chunks_done(folder: Path) -> int:
    path = folder / PROGRESS
    return json.loads(path.read_text())["chunks"] if path.exists() else 0


def _write_progress(folder: Path, chunks: int) -> None:
    temporary = folder / (PROGRESS + ".new")
    temporary.write_text(json.dumps({"chunks": chunks}))
    temporary.replace(folder / PROGRESS)


def _drop_non_finite(folder: Path, task: Task, num_simulations: int) -> dict[str, int]:
    """Leave out pairs with non-finite values and report how many there were."""
    theta = np.load(folder / "theta.npy", mmap_mode="r")
    x = np.load(folder / "x.npy", mmap_mode="r")
    starts = range(0, num_simulations, CHUNK)
    good = np.concatenate([np.isfinite(x[s : s + CHUNK]).all(axis=1) for s in starts])
    dropped = int((~good).sum())
    if dropped == num_simulations:
        raise ValueError(
            f"All {num_simulations} simulations of task {task.name} are non-finite: check its "
            "settings."
        )
    if dropped:
        log.warning("%d of %d simulations are non-finite: left out", dropped, num_simulations)
        for name, array in {"theta": theta, "x": x}.items():
            _rewrite(folder / f"{name}.npy", array, good)
    return {"num_requested": num_simulations, "num_dropped": dropped}


def _rewrite(path: Path, array: np.ndarray, keep: np.ndarray) -> None:
    temporary = path.with_name("kept_" + path.name)
    kept = _array(temporary, (int(keep.sum()), array.shape[1]), "w+")
    rows = np.flatnonzero(keep)
    for start in range(0, len(rows), CHUNK):
        kept[start : start + CHUNK] = array[rows[start : start + CHUNK]]
    kept.flush()
    temporary.replace(path)
