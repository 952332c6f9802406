"""Random streams: one generator per purpose, derived from a seed and a name."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Generator

__all__ = ["child", "draws_from", "every_draw_from", "replay", "stream"]


def stream(seed: int, *purpose: str | int) -> Generator:
    """Return the CPU generator that belongs to `seed` and a purpose.

    Streams of different seeds or purposes are independent, so adding a new consumer of
    randomness never changes the numbers of another one.

    Args:
        seed: The experiment's seed.
        purpose: Names (or indices) of what the numbers are for, e.g. `("simulate", "test", 3)`.
    """
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def child(generator: Generator) -> Generator:
    """Draw a new independent generator from `generator`, which advances by one number."""
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return Generator().manual_seed(int(seed))


def replay(generator: Generator) -> Generator:
    """Return a generator in the same state: it draws the numbers that `generator` would draw."""
    return Generator(generator.device).set_state(generator.get_state())


@contextmanager
def draws_from(generator: Generator) -> Iterator[None]:
    """Let code that knows no generator argument draw from `generator`.

    `torch.distributions` and the initialisation of modules use torch's global stream. Inside this
    context that stream is seeded from `generator` (which advances by one number); afterwards the
    global stream is what it was before. Two contexts opened on generators in equal states see
    equal numbers: this is how common random numbers are made.
    """
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    accelerator = getattr(torch, "accelerator", None)  # since torch 2.6
    if accelerator is None or accelerator.is_available():
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
        return
    # where there is no other device, what seeds and forks all of them takes 50 times as long
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


@contextmanager
def every_draw_from(generator: Generator) -> Iterator[None]:
    """As `draws_from`, for the global generators of numpy and of Python's `random`, too: code of
    other people draws from any of them."""
    with draws_from(generator):
        seed = int(torch.randint(2**32, ()))
        numpy_state, python_state = np.random.get_state(), random.getstate()
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
