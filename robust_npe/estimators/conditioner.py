"""Masked networks that compute the parameters of autoregressive transforms.

Feature-major: activations have shape `(features, columns)`, one column per pair of a sample and
an observation. Hidden units are sorted by the number of coordinates they may see, so that masks
are block-triangular and the inverse works on contiguous blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["BoundConditioner", "Conditioner", "Plan"]


class Conditioner(nn.Module):
    """Masked ReLU network that computes the parameters of one autoregressive transform.

    A hidden unit of degree g sees the context and the coordinates of the groups before g, and is
    seen by group g and later ones. Units are sorted by degree. The context's part of the first
    layer is computed elsewhere.

    References:
        Germain et al. (2015), "MADE: masked autoencoder for distribution estimation",
        https://arxiv.org/abs/1502.03509

    Args:
        groups: Number of coordinates in each group, D in total.
        num_parameters: Parameters P of the univariate transform.
        hidden: Widths of the hidden layers.
    """

    def __init__(self, groups: Sequence[int], num_parameters: int, hidden: Sequence[int]) -> None:
        super().__init__()
        coordinates = torch.arange(len(groups)).repeat_interleave(torch.tensor(groups))
        # the last group is seen by nobody, so it needs no weights
        inputs = coordinates[coordinates < len(groups) - 1]
        degrees = [(torch.arange(h) % len(groups)).sort().values for h in hidden]
        levels = [*degrees, coordinates.repeat_interleave(num_parameters)]
        self.num_parameters = num_parameters
        self.groups = _groups([coordinates, *levels], len(groups))
        self.first = nn.Linear(len(inputs), hidden[0], bias=False) if len(inputs) else None
        self.layers = nn.ModuleList(nn.Linear(len(a), len(b)) for a, b in pairwise(levels))
        masks = [levels[0].unsqueeze(1) > inputs]
        masks += [b.unsqueeze(1) >= a for a, b in pairwise(levels)]
        for i, mask in enumerate(masks):  # constants, so not part of the state
            self.register_buffer(f"mask_{i}", mask.to(torch.get_default_dtype()), persistent=False)

    def weights(self) -> list[Tensor]:
        """Return the weights of all layers without masks, the first layer's `(H, inputs)`."""
        layers = [cast(nn.Linear, layer).weight for layer in self.layers]
        return [*layers] if self.first is None else [self.first.weight, *layers]

    def biases(self) -> list[Tensor]:
        """Return the biases of all layers but the first."""
        return [cast(nn.Linear, layer).bias for layer in self.layers]

    def masks(self) -> list[Tensor]:
        """Return what is kept of the weights of all layers: ones and zeros."""
        first = 0 if self.first is not None else 1
        return [getattr(self, f"mask_{i}") for i in range(first, len(self.layers) + 1)]

    @cached_property
    def plan(self) -> Plan:
        """Where compiled code finds things."""
        ends = [[0, *(group[i].stop for group in self.groups)] for i in range(len(self.groups[0]))]
        return Plan.make(np.array(ends))

    def bind(self, context_term: Tensor) -> BoundConditioner:
        """Return the network for given observations, with masks applied.

        Args:
            context_term: The context's part of the first layer, with bias, `(H, B)`.
        """
        weights = [w * mask for w, mask in zip(self.weights(), self.masks(), strict=True)]
        return BoundConditioner(
            context_term,
            None if self.first is None else weights[0],
            weights if self.first is None else weights[1:],
            [bias.unsqueeze(1) for bias in self.biases()],
            self.groups,
            self.num_parameters,
        )


def _groups(levels: Sequence[Tensor], groups: int) -> list[list[slice]]:
    """For each group, the rows of the coordinates and of each layer that belong to it."""
    ends = [torch.bincount(level, minlength=groups).cumsum(0).tolist() for level in levels]
    return [
        [slice(end[g - 1] if g else 0, end[g]) for end in ends]  # sorted, so they are contiguous
        for g in range(groups)
    ]


class Plan(NamedTuple):
    """Where things are in a conditioner of G groups and L layers with M rows in total.

    Attributes:
        ends: Where the rows of each group end in the coordinates and each layer, `(L + 1, G + 1)`.
        rows: Where each layer starts among the rows of all layers, `(L + 1,)`.
        shapes: Of the weights of each layer, `(L, 2)`.
        starts: Where they start among all weights, `(L + 1,)`.
        seen: How many rows below each of all rows sees, `(M,)`.
    """

    ends: np.ndarray
    rows: np.ndarray
    shapes: np.ndarray
    starts: np.ndarray
    seen: np.ndarray

    @staticmethod
    def make(ends: np.ndarray) -> Plan:
        """Derive the rest from the ends."""
        shapes = np.stack([ends[1:, -1], [ends[0, -2], *ends[1:-1, -1]]], axis=1)
        rows = np.array([0, *shapes[:, 0].cumsum()])
        starts = np.array([0, *shapes.prod(axis=1).cumsum()])
        inputs = [ends[0, :-1], *ends[1:-1, 1:]]  # that each group sees
        seen = [np.repeat(i, np.diff(end)) for i, end in zip(inputs, ends[1:], strict=True)]
        return Plan(ends, rows, shapes, starts, np.concatenate(seen))


class BoundConditioner(NamedTuple):
    """A conditioner at B observations; see `Conditioner`.

    Attributes:
        context_term: `(H, B)`.
        first: Masked weights of the first layer on the coordinates that anything depends on.
        weights: Masked weights of the other layers.
        biases: Their biases, as columns.
        groups: For each group, the rows of the coordinates and of each layer that belong to it.
        num_parameters: Parameters P of the univariate transform.
    """

    context_term: Tensor
    first: Tensor | None
    weights: list[Tensor]
    biases: list[Tensor]
    groups: list[list[slice]]
    num_parameters: int

    def parameters(self, theta: Tensor) -> Tensor:
        """Return the univariate parameters `(P, D, N)` of all coordinates of `theta (D, N)`."""
        h = self._first_layer(theta)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            h = torch.addmm(bias, weight, h.relu())
        return self.unpack(h)

    def _first_layer(self, theta: Tensor) -> Tensor:
        batch, columns = self.context_term.shape[1], theta.shape[1]
        if self.first is None:
            return self.context_term.repeat(1, columns // batch)
        seen = theta[: self.first.shape[1]]
        if columns == batch:
            return torch.addmm(self.context_term, self.first, seen)
        by_sample = (self.first @ seen).unflatten(1, (-1, batch))
        return (by_sample + self.context_term.unsqueeze(1)).flatten(1)

    def unpack(self, outputs: Tensor) -> Tensor:
        """Move the P parameters of each coordinate, `(n * P, N)`, to the front: `(P, n, N)`."""
        return outputs.unflatten(0, (-1, self.num_parameters)).transpose(0, 1)
