"""Antithetic samples: theta in pairs, made from noise z and -z.

A quantity that is nearly linear in z, such as a difference of log densities or its gradient, has
most of its Monte-Carlo error cancelled within a pair.

References:
    Hammersley & Morton (1956), "A new Monte Carlo technique: antithetic variates", Proceedings of
    the Cambridge Philosophical Society 52.
"""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

__all__ = ["Antithetic", "antithetic", "pair_shape", "paired"]


def antithetic(q: Distribution) -> Distribution:
    """Return q with samples that come in antithetic pairs, neighbours along the first axis.

    Each sample alone still follows q. A distribution that cannot do this (it has no method
    `antithetic`) is returned as it is, with independent samples.
    """
    return q.antithetic() if hasattr(q, "antithetic") else q


class Antithetic:
    """What a distribution inherits to offer its samples in pairs."""

    _wants_pairs = False

    def antithetic(self) -> Self:
        """See the function of this name."""
        other = copy.copy(self)
        other._wants_pairs = True
        return other

    def _pairs(self, sample_shape: Size) -> bool:
        """Tell whether samples of this shape come in pairs: a single one has no neighbour."""
        return self._wants_pairs and len(sample_shape) > 0

    def _normal_noise(self, sample_shape: Size, shape: Size, like: Tensor) -> Tensor:
        """Draw standard normal noise `(*sample_shape, *shape)`, in pairs if these are wanted."""
        pairs = self._pairs(sample_shape)
        drawn = pair_shape(sample_shape) if pairs else sample_shape
        z = torch.randn(drawn + shape, dtype=like.dtype, device=like.device)
        return paired(z, -z, sample_shape[0]) if pairs else z


def pair_shape(sample_shape: Size) -> Size:
    """Return the shape of the pairs that samples of a shape are made of."""
    return Size([-(-sample_shape[0] // 2), *sample_shape[1:]])


def paired(first: Tensor, second: Tensor, count: int) -> Tensor:
    """Return first[0], second[0], first[1], ... along the first axis, `count` of them."""
    return torch.stack((first, second), dim=1).flatten(0, 1)[:count]
