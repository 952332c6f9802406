"""Second simulations at the parameters of the test set: what `epsilon_unit=auto` is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robust_npe.attacks.auto_unit import REPLICATES
from robust_npe.random import stream
from robust_npe.store import Store
from robust_npe.tasks.base import Task

__all__ = ["replicates"]


def replicates(
    store: Store, task: Task, task_description: Mapping[str, Any], theta: Tensor, seed: int
) -> Tensor | None:
    """Return one more simulation at each of the first parameters, from the store or made now.

    Args:
        store: Where they are kept.
        task: The simulator.
        task_description: Everything that determines it.
        theta: Parameters of the test set, `(N, D)`.
        seed: Seed of the data.

    Returns:
        Observations `(M, Dx)`, None where the task cannot simulate.
    """
    if not task.knows("simulate"):
        return None
    theta = theta[:REPLICATES].cpu()
    description = {
        "class": "replicates",
        "version": [1],
        "task": dict(task_description),
        "theta": hashlib.sha256(theta.numpy().tobytes()).hexdigest(),
        "seed": seed,
    }

    def make(folder: Path) -> None:
        x = task.simulate(theta, stream(seed, "replicates"))
        np.save(folder / "x.npy", x.float().cpu().numpy())

    path = store.get("replicates", description, make).path / "x.npy"
    return torch.from_numpy(np.load(path, allow_pickle=False))
