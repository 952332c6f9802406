"""Masked networks that compute the parameters of autoregressive transforms.

Feature-major: activations have shape `(features, columns)`, one column per pair of a sample and
an observation. Hidden units are sorted by the number of coordinates they may see, so that masks
are block-triangular and the inverse works on contiguous blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from robust_npe.estimators.univariate import Univariate

__all__ = ["BoundConditioner", "Conditioner"]


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
        self.ends = [_ends(level, len(groups)) for level in (coordinates, *levels)]
        self.first = nn.Linear(len(inputs), hidden[0], bias=False) if len(inputs) else None
        self.layers = nn.ModuleList(nn.Linear(len(a), len(b)) for a, b in pairwise(levels))
        masks = [levels[0].unsqueeze(1) > inputs]
        masks += [b.unsqueeze(1) >= a for a, b in pairwise(levels)]
        for i, mask in enumerate(masks):  # constants, so not part of the state
            self.register_buffer(f"mask_{i}", mask.to(torch.get_default_dtype()), persistent=False)

    def bind(self, context_term: Tensor) -> BoundConditioner:
        """Return the network for given observations, with masks applied.

        Args:
            context_term: The context's part of the first layer, with bias, `(H, B)`.
        """
        masks = [getattr(self, f"mask_{i}") for i in range(len(self.layers) + 1)]
        layers = [cast(nn.Linear, layer) for layer in self.layers]
        return BoundConditioner(
            context_term,
            None if self.first is None else self.first.weight * masks[0],
            [layer.weight * mask for layer, mask in zip(layers, masks[1:], strict=True)],
            [layer.bias.unsqueeze(1) for layer in layers],
            self.ends,
            self.num_parameters,
        )


def _ends(level: Tensor, groups: int) -> list[int]:
    """Number of units of degree at most g, for g = 0, 1, ..."""
    return torch.bincount(level, minlength=groups).cumsum(0).tolist()


class BoundConditioner(NamedTuple):
    """A conditioner at B observations; see `Conditioner`.

    Attributes:
        context_term: `(H, B)`.
        first: Masked weights of the first layer on the coordinates that anything depends on.
        weights: Masked weights of the other layers.
        biases: Their biases, as columns.
        ends: For the coordinates and each layer, how many units belong to groups up to g.
        num_parameters: Parameters P of the univariate transform.
    """

    context_term: Tensor
    first: Tensor | None
    weights: list[Tensor]
    biases: list[Tensor]
    ends: list[list[int]]
    num_parameters: int

    def parameters(self, theta: Tensor) -> Tensor:
        """Return the univariate parameters `(P, D, N)` of all coordinates of `theta (D, N)`."""
        columns = theta.shape[1]
        if self.first is None:
            h = self._repeat(self.context_term, columns)
        else:
            h = self._add_context(self.first, theta[: self.first.shape[1]], self.context_term)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            h = torch.addmm(bias, weight, h.relu())
        return h.unflatten(0, (-1, self.num_parameters)).transpose(0, 1)

    def inverse(self, univariate: Univariate, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return theta with f(theta) = z and log |det df/dtheta|, for `z (D, N)`.

        Group by group; at each one, only the hidden units that could not be known before are
        computed, so that all groups together cost about one forward pass.
        """
        sizes = [*(end[-1] for end in self.ends[:-1])]
        theta, *units = (_Stack(z, size) for size in sizes)
        log_det: Tensor | float = 0.0
        for rows in self._groups():
            h = self._first_layer(rows[1], theta.value)
            for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
                units[i].append(h.relu())
                known, new = units[i].value, rows[i + 2]
                h = torch.addmm(bias[new], weight[new, : known.shape[0]], known)
            phi = h.unflatten(0, (-1, self.num_parameters)).transpose(0, 1)
            block, log_slope = univariate.inverse(z[rows[0]], phi)
            theta.append(block)
            log_det = log_det + log_slope.sum(0)
        return theta.value, cast(Tensor, log_det)

    def _groups(self) -> Iterator[list[slice]]:
        """Rows of the coordinates and of each layer that belong to each group."""
        starts = [0] * len(self.ends)
        for ends in zip(*self.ends, strict=True):
            yield [slice(start, end) for start, end in zip(starts, ends, strict=True)]
            starts = list(ends)

    def _first_layer(self, rows: slice, theta: Tensor) -> Tensor:
        context_term = self.context_term[rows]
        if self.first is None or theta.shape[0] == 0:
            return self._repeat(context_term, theta.shape[1])
        return self._add_context(self.first[rows, : theta.shape[0]], theta, context_term)

    @staticmethod
    def _add_context(weight: Tensor, theta: Tensor, context_term: Tensor) -> Tensor:
        """Return weight @ theta + context_term, the latter repeated for each sample."""
        batch = context_term.shape[1]
        if theta.shape[1] == batch:
            return torch.addmm(context_term, weight, theta)
        by_sample = (weight @ theta).unflatten(1, (-1, batch))
        return (by_sample + context_term.unsqueeze(1)).flatten(1)

    @staticmethod
    def _repeat(context_term: Tensor, columns: int) -> Tensor:
        return context_term.repeat(1, columns // context_term.shape[1])


class _Stack:
    """Rows that arrive block by block: a list under autograd, else a buffer without copies."""

    def __init__(self, like: Tensor, rows: int) -> None:
        self.attached = torch.is_grad_enabled()
        self.size = 0
        self.rows = like.new_empty(0 if self.attached else rows, like.shape[1])

    @property
    def value(self) -> Tensor:
        """All rows so far."""
        return self.rows[: self.size]

    def append(self, block: Tensor) -> None:
        """Add rows below."""
        if self.attached:
            self.rows = torch.cat((self.rows, block)) if self.size else block
        else:
            self.rows[self.size : self.size + block.shape[0]] = block
        self.size += block.shape[0]
