"""The Gaussian that a trajectory of weights suggests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from robust_npe.states import numbered, take_over

__all__ = ["Trajectory"]

TENSORS = ("mean", "square", "deviations")


class Trajectory:
    """Moments of weights along a trajectory: mean, variance of each, and last deviations.

    References:
        Maddox et al. (2019), https://arxiv.org/abs/1902.02476, algorithm 1 and equation (1)

    Args:
        rank: Number of the last deviations from the running mean that are kept; 0 for none.
        like: Tensors of the shapes that will be collected.
    """

    def __init__(self, rank: int, like: Sequence[Tensor]) -> None:
        self.rank = rank
        self.count = 0
        self.mean, self.square = ([torch.zeros_like(w) for w in like] for _ in range(2))
        self.deviations = [w.new_zeros(rank, *w.shape) for w in like]  # the newest is the last

    @torch.no_grad()
    def collect(self, weights: Sequence[Tensor]) -> None:
        """Take in weights."""
        self.count += 1
        for i, w in enumerate(weights):
            self.mean[i] += (w - self.mean[i]) / self.count
            self.square[i] += (w.square() - self.square[i]) / self.count
            deviation = (w - self.mean[i]).unsqueeze(0)
            self.deviations[i] = torch.cat([self.deviations[i], deviation])[1:]

    @torch.no_grad()
    def draw(self, generator: Generator) -> list[Tensor]:
        """Return weights from N(mean, (diagonal + low rank) / 2); from N(mean, diagonal) where no
        deviations are kept."""
        stds = [
            (s - m.square()).clamp(min=0).sqrt()
            for m, s in zip(self.mean, self.square, strict=True)
        ]
        noise = [s * torch.randn(s.shape, generator=generator).to(s) for s in stds]
        count = min(self.count, self.rank)
        if count < 2:
            return [m + e for m, e in zip(self.mean, noise, strict=True)]
        along = torch.randn(count, generator=generator).to(stds[0]) / (2 * (count - 1)) ** 0.5
        return [
            m + e / 2**0.5 + torch.tensordot(along, d[-count:], 1)
            for m, e, d in zip(self.mean, noise, self.deviations, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return all of it; tensors are not copied."""
        tensors = {name: numbered(getattr(self, name)) for name in TENSORS}
        return {"count": self.count, **tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.count = state["count"]
        for name in TENSORS:
            take_over(getattr(self, name), state[name])
