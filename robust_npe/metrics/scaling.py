"""Two sets of samples in common units, whatever the units and however wild the samples."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["z_scored"]

FAR = 100.0  # standard deviations; none of N samples is further than sqrt(N) from their own mean


def z_scored(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sets of samples z-scored by the first, dimension by dimension.

    A dimension in which the first set is constant (up to rounding) is measured by the spread of
    both together, and one that is constant in both tells nothing. What is further than 100
    standard deviations away, infinite samples included, is put there: that is far enough to be
    told apart, and a network can learn from it. NaN remains.

    Args:
        p: Samples of shape `(*, N, D)`; mean and spread are those of the finite ones.
        q: Samples of shape `(*, M, D)`.
    """
    mean, std = _moments(p)
    constant = std <= 4 * torch.finfo(p.dtype).eps * mean.abs()
    std = torch.where(constant, _moments(torch.cat((p, q), dim=-2))[1], std)
    std = torch.where(std > 0, std, 1.0)
    return ((p - mean) / std).clamp(-FAR, FAR), ((q - mean) / std).clamp(-FAR, FAR)


def _moments(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation `(*, 1, D)` of the finite entries; 0 without any."""
    finite = samples.isfinite()
    if finite.all():
        return samples.mean(-2, keepdim=True), samples.std(-2, keepdim=True)
    count = finite.sum(-2, keepdim=True)
    mean = torch.where(finite, samples, 0.0).sum(-2, keepdim=True) / count.clamp(min=1)
    squares = torch.where(finite, samples - mean, 0.0).square().sum(-2, keepdim=True)
    return mean, (squares / (count - 1).clamp(min=1)).sqrt()
