"""Antithetic samples: theta in pairs, made from noise z and -z.

A quantity that is nearly linear in z, such as a difference of log densities or its gradient, has
most of its Monte-Carlo error cancelled within a pair.

References:
    Hammersley & Morton (1956), "A new Monte Carlo technique: antithetic variates", Proceedings of
    the Cambridge Philosophical Society 52.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

__all__ = ["antithetic", "normal_noise", "paired"]


def antithetic(q: Distribution) -> Distribution:
    """Return q with samples that come in antithetic pairs, neighbours along the first axis.

    Each sample alone still follows q. A distribution that cannot do this (it has no method
    `antithetic`) is returned as it is, with independent samples.
    """
    return q.antithetic() if hasattr(q, "antithetic") else q


def normal_noise(shape: torch.Size, like: Tensor, pairs: bool) -> Tensor:
    """Draw standard normal noise of a shape, in antithetic pairs along the first axis or not."""
    if not pairs:
        return torch.randn(shape, dtype=like.dtype, device=like.device)
    half = torch.randn(-(-shape[0] // 2), *shape[1:], dtype=like.dtype, device=like.device)
    return paired(half, -half, shape[0])


def paired(first: Tensor, second: Tensor, count: int) -> Tensor:
    """Return first[0], second[0], first[1], ... along the first axis, `count` of them."""
    return torch.stack((first, second), dim=1).flatten(0, 1)[:count]
