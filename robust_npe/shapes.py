"""Shapes of batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

__all__ = ["broadcast_shapes"]


def broadcast_shapes(*shapes: Sequence[int]) -> torch.Size:
    """As `torch.broadcast_shapes`, whose first call imports sympy.

    Raises:
        ValueError: The shapes do not fit together.
    """
    return torch.Size(np.broadcast_shapes(*map(tuple, shapes)))
