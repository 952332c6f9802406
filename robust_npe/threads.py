"""How many threads torch computes with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["torch_threads"]


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Compute with so many threads; afterwards there are as many as before.

    The networks of this field are small: their threads mostly wait for each other, and where other
    processes run, an attack on two of them was seen to take 40 times as long as on one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
