"""Weights as safetensors: loading a stranger's file runs no code."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import nn

from robust_npe.files import open_plain, write_atomically
from robust_npe.store.manifests import CorruptArtefactError

__all__ = ["load_weights", "save_weights"]


def save_weights(module: nn.Module, path: Path) -> None:
    """Write all parameters and buffers of a module."""
    tensors = {
        name: t.detach().cpu().contiguous().clone() for name, t in module.state_dict().items()
    }
    write_atomically(path, save(tensors))


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill a module of the same architecture with stored weights.

    Raises:
        CorruptArtefactError: There are NaN among them, so that every density would be NaN.
        RuntimeError: Names or shapes do not fit the module.
    """
    with open_plain(path, "file of weights") as file:
        tensors = {name: torch.as_tensor(t) for name, t in load(file.read()).items()}
    broken = [name for name, t in tensors.items() if t.isnan().any()]
    if broken:
        raise CorruptArtefactError(
            f"{path} holds NaN in {len(broken)} of {len(tensors)} tensors (first: {broken[0]}). "
            f"Delete {path.parent} and train again."
        )
    module.load_state_dict(tensors)
