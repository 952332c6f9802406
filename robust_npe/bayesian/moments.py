"""The Gaussian that a trajectory of weights suggests."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

__all__ = ["Trajectory"]


class Trajectory:
    """Moments of weights along a trajectory: mean, variance of each, and last deviations.

    References:
        Maddox et al. (2019), https://arxiv.org/abs/1902.02476, algorithm 1 and equation (1)

    Args:
        rank: Number of the last deviations from the running mean that are kept; 0 for none.
    """

    def __init__(self, rank: int) -> None:
        self.count = 0
        self.mean: list[Tensor] = []
        self.square: list[Tensor] = []
        self.deviations: deque[list[Tensor]] = deque(maxlen=rank)

    @torch.no_grad()
    def collect(self, weights: Sequence[Tensor]) -> None:
        """Take in weights."""
        if not self.count:
            self.mean = [torch.zeros_like(w) for w in weights]
            self.square = [torch.zeros_like(w) for w in weights]
        self.count += 1
        for i, w in enumerate(weights):
            self.mean[i] += (w - self.mean[i]) / self.count
            self.square[i] += (w.square() - self.square[i]) / self.count
        self.deviations.append([w - m for w, m in zip(weights, self.mean, strict=True)])

    @torch.no_grad()
    def draw(self, generator: Generator) -> list[Tensor]:
        """Return weights from N(mean, (diagonal + low rank) / 2); from N(mean, diagonal) where no
        deviations are kept."""
        stds = [
            (s - m.square()).clamp(min=0).sqrt()
            for m, s in zip(self.mean, self.square, strict=True)
        ]
        noise = [s * torch.randn(s.shape, generator=generator).to(s) for s in stds]
        count = len(self.deviations)
        if count < 2:
            return [m + e for m, e in zip(self.mean, noise, strict=True)]
        along = torch.randn(count, generator=generator).to(stds[0]) / (2 * (count - 1)) ** 0.5
        return [
            m + e / 2**0.5 + torch.tensordot(along, torch.stack(d), 1)
            for m, e, d in zip(self.mean, noise, zip(*self.deviations, strict=True), strict=True)
        ]
