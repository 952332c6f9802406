"""Convolutional embedding nets for traces and images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from robust_npe.checks import require, require_positive_integer, require_widths
from robust_npe.estimators.embeddings import mlp
from robust_npe.estimators.interfaces import Embedding

__all__ = ["CNN1d", "CNN2d", "PyloricCNN", "SeriesCNN"]


class CNN1d(Embedding):
    """One-dimensional convolutions over traces.

    Each layer is a convolution that keeps the length, ReLU and max pooling; a linear layer makes
    the embedding. Any length works: the last, incomplete window is pooled as well.

    Args:
        dim_x: Number of features of x.
        shape: Number of input channels and length that x `(Dx,)` is split into, channel after
            channel; None for one channel.
        channels: Channels of the convolutions.
        kernel: Width of the kernels, odd.
        pool: Width of the pooling windows; 1 for no pooling.
        dim_out: Number of features of the embedding.
    """

    def __init__(
        self,
        dim_x: int,
        shape: Sequence[int] | None = None,
        channels: Sequence[int] = (6, 9, 12),
        kernel: int = 5,
        pool: int = 3,
        dim_out: int = 100,
    ) -> None:
        super().__init__()
        _check(channels, kernel, pool, dim_out)
        self.shape = tuple(shape) if shape is not None else (1, dim_x)
        fits = len(self.shape) == 2 and math.prod(self.shape) == dim_x and min(self.shape) > 0
        require(fits, "embedding.shape", shape, f"(channels, length) with a product of {dim_x}")
        self.dim_out = dim_out
        self.net = nn.Sequential(
            *_convolutions(1, (self.shape[0], *channels), kernel, pool),
            nn.Flatten(),
            nn.Linear(channels[-1] * _pooled(self.shape[1], len(channels), pool), dim_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `x (*, Dx)` to `(*, dim_out)`."""
        return self.net(x.reshape(-1, *self.shape)).view(*x.shape[:-1], self.dim_out)


class SeriesCNN(CNN1d):
    """`CNN1d` for a series of vectors that lie in x one after the other, time by time.

    Args:
        dim_x: Number of features of x.
        shape: Length and number of channels of the series; None for one channel.
        channels: As in `CNN1d`, and so are the other arguments.
        kernel: See `CNN1d`.
        pool: See `CNN1d`.
        dim_out: See `CNN1d`.
    """

    def __init__(
        self,
        dim_x: int,
        shape: Sequence[int] | None = None,
        channels: Sequence[int] = (6, 9, 12),
        kernel: int = 5,
        pool: int = 3,
        dim_out: int = 100,
    ) -> None:
        length, *others = shape if shape is not None else (dim_x, 1)
        fits = len(others) == 1 and length * others[0] == dim_x and length > 0
        require(fits, "embedding.shape", shape, f"(length, channels) with a product of {dim_x}")
        super().__init__(dim_x, (*others, length), channels, kernel, pool, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x (*, Dx)` to `(*, dim_out)`."""
        return super().forward(x.unflatten(-1, self.shape[::-1]).mT.flatten(-2))


class CNN2d(Embedding):
    """Two-dimensional convolutions over an image, otherwise as `CNN1d`.

    Args:
        dim_x: Number of features of x.
        shape: Height and width of the image, row by row in x; or number of channels, height and
            width, channel after channel. None for a square.
        channels: Channels of the convolutions.
        kernel: Side of the kernels, odd.
        pool: Side of the pooling windows; 1 for no pooling.
        dim_out: Number of features of the embedding.
    """

    def __init__(
        self,
        dim_x: int,
        shape: Sequence[int] | None = None,
        channels: Sequence[int] = (8, 16, 32),
        kernel: int = 3,
        pool: int = 2,
        dim_out: int = 50,
    ) -> None:
        super().__init__()
        _check(channels, kernel, pool, dim_out)
        self.shape = tuple(shape) if shape is not None else 2 * (math.isqrt(dim_x),)
        fits = len(self.shape) in (2, 3) and math.prod(self.shape) == dim_x and min(self.shape) > 0
        expected = f"(height, width) or (channels, height, width) with a product of {dim_x}"
        require(fits, "embedding.shape", shape, expected)
        self.dim_out = dim_out
        height, width = (_pooled(side, len(channels), pool) for side in self.shape[-2:])
        self.image = (*(1, *self.shape)[-3:],)
        self.net = nn.Sequential(
            *_convolutions(2, (self.image[0], *channels), kernel, pool),
            nn.Flatten(),
            nn.Linear(channels[-1] * height * width, dim_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `x (*, Dx)` to `(*, dim_out)`."""
        return self.net(x.reshape(-1, *self.image)).view(*x.shape[:-1], self.dim_out)


class PyloricCNN(Embedding):
    """One `CNN1d` for each cell's trace, joined by a fully connected net.

    The defaults are those of Gloeckler, Deistler & Macke (2023), "Adversarial robustness of
    amortized Bayesian inference", https://arxiv.org/abs/2305.14984: convolutions with 6, 9 and 12
    channels, pooling 3 and 100 outputs per cell, joined 300 -> 200 -> 100 -> 100. The width of
    the kernels is not published.

    Args:
        dim_x: Number of features of x, the traces one after the other.
        cells: Number of traces.
        channels: As in `CNN1d`, and so are the next two.
        kernel: See `CNN1d`.
        pool: See `CNN1d`.
        dim_cell: Number of outputs of each trace's net.
        hidden: Widths of the joining net's hidden layers.
        dim_out: Number of features of the embedding.
    """

    def __init__(
        self,
        dim_x: int,
        cells: int = 3,
        channels: Sequence[int] = (6, 9, 12),
        kernel: int = 5,
        pool: int = 3,
        dim_cell: int = 100,
        hidden: Sequence[int] = (200, 100),
        dim_out: int = 100,
    ) -> None:
        super().__init__()
        fits = cells > 0 and dim_x % cells == 0
        require(fits, "embedding.cells", cells, f"a divisor of the {dim_x} features of x")
        require_positive_integer("embedding.dim_cell", dim_cell)
        require_widths("embedding.hidden", hidden)
        self.dim_out = dim_out
        length = dim_x // cells
        self.nets = nn.ModuleList(
            CNN1d(length, (1, length), channels, kernel, pool, dim_cell) for _ in range(cells)
        )
        self.join = nn.Sequential(nn.ReLU(), mlp(cells * dim_cell, hidden, dim_out))

    def forward(self, x: Tensor) -> Tensor:
        """Map `x (*, Dx)` to `(*, dim_out)`."""
        traces = x.chunk(len(self.nets), dim=-1)
        outputs = [net(trace) for net, trace in zip(self.nets, traces, strict=True)]
        return self.join(torch.cat(outputs, dim=-1))


def _check(channels: Sequence[int], kernel: int, pool: int, dim_out: int) -> None:
    require_widths("embedding.channels", channels, least=1)
    require_positive_integer("embedding.kernel", kernel)
    require(kernel % 2 == 1, "embedding.kernel", kernel, "odd")
    require_positive_integer("embedding.pool", pool)
    require_positive_integer("embedding.dim_out", dim_out)


def _convolutions(sides: int, channels: Sequence[int], kernel: int, pool: int) -> list[nn.Module]:
    """Convolution, ReLU and pooling for each pair of successive numbers of channels."""
    convolution = {1: nn.Conv1d, 2: nn.Conv2d}[sides]
    pooling = {1: nn.MaxPool1d, 2: nn.MaxPool2d}[sides]
    layers: list[nn.Module] = []
    for a, b in pairwise(channels):
        layers += [convolution(a, b, kernel, padding=kernel // 2), nn.ReLU()]
        if pool > 1:
            layers.append(pooling(pool, ceil_mode=True))
    return layers


def _pooled(length: int, layers: int, pool: int) -> int:
    """Length that is left after pooling in every layer."""
    for _ in range(layers):
        length = -(-length // pool)
    return length
