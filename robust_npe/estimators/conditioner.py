"""Masked networks that compute the parameters of autoregressive transforms.

Feature-major: activations have shape `(features, columns)`, one column per pair of a sample and
an observation. Hidden units are sorted by the number of coordinates they may see, so that masks
are block-triangular and the inverse works on contiguous blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from robust_npe.estimators.activation import smooth_relu

__all__ = ["NUM_DIRECT", "Blocks", "BoundConditioner", "Conditioner"]

NUM_DIRECT = 2  # parameters of each coordinate that see the inputs directly: shift, log slope


@dataclass(frozen=True, eq=False)
class Blocks:
    """Block structure of a conditioner of G groups and L layers: which rows belong to which group.

    See `docs/kernels.md`, section 1.

    Attributes:
        ends: Where the rows of each group end in the coordinates (first row) and in each layer,
            after a leading zero: `(L + 1, G + 1)`.
    """

    ends: np.ndarray

    @staticmethod
    def of(levels: Sequence[Tensor], num_groups: int) -> Blocks:
        """Return the blocks of coordinates and layers, whose rows are sorted by their group."""
        counts = [torch.bincount(level, minlength=num_groups) for level in levels]
        ends = torch.stack(counts).cumsum(1)
        return Blocks(torch.nn.functional.pad(ends, (1, 0)).numpy())

    @cached_property
    def slices(self) -> list[list[slice]]:
        """For each group, its rows in the coordinates and in each layer."""
        return [
            [slice(start, stop) for start, stop in zip(starts, stops, strict=True)]
            for starts, stops in pairwise(self.ends.T.tolist())
        ]

    @cached_property
    def layout(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What kernels, which have the arrays of all layers in one, need to find their way.

        Returns:
            The ends; where each layer starts among the rows of all layers, `(L + 1,)`; shapes of
            their weights, `(L, 2)`; where they start among all weights, `(L + 1,)`.
        """
        heights = self.ends[1:, -1]
        shapes = np.stack([heights, [self.ends[0, -2], *heights[:-1]]], axis=1)
        rows, starts = (np.array([0, *n.cumsum()]) for n in (heights, shapes.prod(axis=1)))
        return self.ends, rows, shapes, starts


class Conditioner(nn.Module):
    """Masked network that computes the parameters of one autoregressive transform.

    A hidden unit of degree g sees the context and the coordinates of the groups before g, and is
    seen by group g and later ones. Units are sorted by degree. The first parameters of each
    coordinate (shift and log slope) also see context and coordinates directly, so that what is
    linear need not be learned by hidden units. The context's part of the first layer, and of the
    direct connections, is computed elsewhere.

    References:
        Germain et al. (2015), "MADE: masked autoencoder for distribution estimation",
        https://arxiv.org/abs/1502.03509, direct connections included.

    Args:
        groups: Number of coordinates in each group, D in total.
        num_parameters: Parameters P of the univariate transform.
        hidden: Widths of the hidden layers.
    """

    mask_0: Tensor
    direct_mask: Tensor

    def __init__(self, groups: Sequence[int], num_parameters: int, hidden: Sequence[int]) -> None:
        super().__init__()
        coordinates = torch.arange(len(groups)).repeat_interleave(torch.tensor(groups))
        # the last group is seen by nobody, so it needs no weights
        inputs = coordinates[coordinates < len(groups) - 1]
        degrees = [(torch.arange(h) % len(groups)).sort().values for h in hidden]
        levels = [*degrees, coordinates.repeat_interleave(num_parameters)]
        self.num_parameters = num_parameters
        self.blocks = Blocks.of([coordinates, *levels], len(groups))
        self.first = nn.Linear(len(inputs), hidden[0], bias=False) if len(inputs) else None
        self.layers = nn.ModuleList(nn.Linear(len(a), len(b)) for a, b in pairwise(levels))
        self.direct = nn.Parameter(torch.zeros(NUM_DIRECT * len(coordinates), len(inputs)))
        direct_mask = coordinates.repeat_interleave(NUM_DIRECT).unsqueeze(1) > inputs
        dtype = torch.get_default_dtype()
        self.register_buffer("direct_mask", direct_mask.to(dtype), persistent=False)
        masks = [levels[0].unsqueeze(1) > inputs]
        masks += [b.unsqueeze(1) >= a for a, b in pairwise(levels)]
        for i, mask in enumerate(masks):  # constants, so not part of the state
            self.register_buffer(f"mask_{i}", mask.to(dtype), persistent=False)

    def weights(self) -> list[Tensor]:
        """Return the weights of all layers without masks, the first layer's `(H, inputs)`."""
        first = self.mask_0 if self.first is None else self.first.weight
        return [first, *(cast(nn.Linear, layer).weight for layer in self.layers)]

    def biases(self) -> list[Tensor]:
        """Return the biases of all layers but the first."""
        return [cast(nn.Linear, layer).bias for layer in self.layers]

    def bind(self, context_term: Tensor, direct_term: Tensor) -> BoundConditioner:
        """Return the network for given observations, with masks applied.

        Args:
            context_term: The context's part of the first layer, with bias, `(H, B)`.
            direct_term: The context's part of shifts and log slopes, `(2 D, B)`.
        """
        weights = [w * getattr(self, f"mask_{i}") for i, w in enumerate(self.weights())]
        biases = [bias.unsqueeze(1) for bias in self.biases()]
        direct = self.direct * self.direct_mask
        terms = context_term, direct_term
        return BoundConditioner(*terms, direct, weights, biases, self.blocks, self.num_parameters)


class BoundConditioner(NamedTuple):
    """A conditioner at B observations; see `Conditioner`.

    Attributes:
        context_term: The context's part of the first layer, `(H, B)`.
        direct_term: The context's part of shifts and log slopes, `(2 D, B)`.
        direct: Their masked weights on the coordinates that anything depends on.
        weights: Masked weights of all layers, those of the first on the coordinates that anything
            depends on.
        biases: Biases of all layers but the first, as columns.
        blocks: Which rows belong to which group.
        num_parameters: Parameters P of the univariate transform.
    """

    context_term: Tensor
    direct_term: Tensor
    direct: Tensor
    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    blocks: Blocks
    num_parameters: int

    def parameters(self, theta: Tensor) -> Tensor:
        """Return the univariate parameters `(P, D, N)` of all coordinates of `theta (D, N)`."""
        h = self._affine(self.weights[0], self.context_term, theta)
        for weight, bias in zip(self.weights[1:], self.biases, strict=True):
            h = torch.addmm(bias, weight, smooth_relu(h))
        phi = self.unpack(h)
        direct = self._affine(self.direct, self.direct_term, theta)
        return _with_direct(phi, direct)

    def _affine(self, weight: Tensor, term: Tensor, theta: Tensor) -> Tensor:
        """Return `weight @ theta` for the coordinates that it has, plus the term of each column."""
        copies = theta.shape[1] // term.shape[1]
        terms = term if copies == 1 else term.repeat(1, copies)
        return torch.addmm(terms, weight, theta[: weight.shape[1]])

    def unpack(self, outputs: Tensor) -> Tensor:
        """Move the P parameters of each coordinate, `(n * P, N)`, to the front: `(P, n, N)`."""
        return outputs.unflatten(0, (-1, self.num_parameters)).transpose(0, 1)


def _with_direct(phi: Tensor, direct: Tensor) -> Tensor:
    """Add what shifts and log slopes see directly, `(2 n, N)`, to parameters `(P, n, N)`."""
    added = direct.unflatten(0, (-1, NUM_DIRECT)).transpose(0, 1)
    if len(phi) == NUM_DIRECT:
        return phi + added
    first, rest = phi.split([NUM_DIRECT, len(phi) - NUM_DIRECT])
    return torch.cat((first + added, rest))
