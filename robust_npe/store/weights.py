"""Weights as safetensors: loading a stranger's file runs no code."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

__all__ = ["load_weights", "save_weights"]


def save_weights(module: nn.Module, path: Path) -> None:
    """Write all parameters and buffers of a module."""
    tensors = {
        name: t.detach().cpu().contiguous().clone() for name, t in module.state_dict().items()
    }
    save_file(tensors, path)


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill a module of the same architecture with stored weights.

    Raises:
        RuntimeError: Names or shapes do not fit the module.
    """
    module.load_state_dict({name: torch.as_tensor(t) for name, t in load_file(path).items()})
