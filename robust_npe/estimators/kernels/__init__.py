"""Compiled code for the CPU; `docs/kernels.md` derives what it computes.

numba, which takes long to import, is imported where a kernel is used for the first time. A kernel
whose functions are in more than one file says so to numba's cache, see `watch_sources`.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["fits_kernels"]


def fits_kernels(tensor: Tensor) -> bool:
    """Tell whether the kernels work on a tensor of this type and place."""
    return tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64)
