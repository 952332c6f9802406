"""Standardisation: from data in any units to numbers of order one, which networks need."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from robust_npe.checks import require

__all__ = ["Standardize", "is_squeezed", "standardization"]

ROWS = 65_536  # that are converted to float64 at a time
QUANTILE_ROWS = 8_192  # rows are independent, so the first ones are enough for quantiles
SQUEEZE_ROWS = 1_024  # which is looked for at every training
PUBLISHED_MIN_STD = 0.05
NORMAL_BULK = 3.29  # length of the central 90 % of a standard normal distribution
LINEAR = 5.0  # `robust` leaves what is within so many standard deviations as it is
SQUEEZE = 12.0  # how many times narrower than a normal one the bulk of a feature may be


class Standardize(nn.Module):
    """z = (x - mean) / std, with mean and standard deviation of the training data.

    A feature that does not vary beyond the rounding of float32 has no scale of its own. It takes
    the median one of the others, so that small perturbations of it are not blown up.

    Args:
        dim: Number of features D.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def fit(self, x: Tensor) -> Tensor:
        """Take the statistics from data `(N, D)`; tell which features hardly vary, bool `(D,)`."""
        mean, std = _moments(x, self._compressed)
        std, constant = self._floored(mean, std)
        self.mean.copy_(mean)
        self.std.copy_(std)
        return constant

    def forward(self, x: Tensor) -> Tensor:
        """Return the standardised data, same shape."""
        return (self._compressed(x) - self.mean) / self.std

    def unit(self, x: Tensor) -> Tensor:
        """Return dx/dz of each feature at `x (*, D)`, broadcast against it."""
        return self.least_unit

    @property
    def least_unit(self) -> Tensor:
        """Smallest dx/dz of each feature, `(D,)`."""
        return self.std

    def _compressed(self, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def _floored(centre: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Return standard deviations to divide by, and which of them are not the feature's own."""
        info = torch.finfo(torch.float32)
        constant = std <= (info.eps * centre.abs()).clamp(min=info.tiny)
        typical = std.new_ones(()) if constant.all() else std[~constant].median()
        return torch.where(constant, typical, std), constant


class _Published(Standardize):
    """The standard deviation is at least 0.05, whatever the units."""

    @staticmethod
    @override
    def _floored(centre: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        return std.clamp(min=PUBLISHED_MIN_STD), std < PUBLISHED_MIN_STD


class _Unscaled(Standardize):
    """z = x."""

    @override
    def fit(self, x: Tensor) -> Tensor:
        return torch.zeros_like(self.std, dtype=torch.bool)


class _Compressed(Standardize):
    """z = (c(t) - mean) / std with t = (x - centre) / width, where c(t) = t for |t| <= 1, and grows
    more slowly beyond; one-to-one and continuously differentiable."""

    centre: Tensor
    width: Tensor
    power: ClassVar[int]  # the slope beyond is 1 / |t|^power

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("centre", torch.zeros(dim))
        self.register_buffer("width", torch.ones(dim))

    @staticmethod
    @abstractmethod
    def beyond(size: Tensor) -> Tensor:
        """Return c(t) for t >= 1."""

    @override
    def unit(self, x: Tensor) -> Tensor:
        return self.least_unit * self._relative(x).abs().clamp(min=1) ** self.power

    @property
    @override
    def least_unit(self) -> Tensor:
        return self.std * self.width

    def _relative(self, x: Tensor) -> Tensor:
        most = torch.finfo(x.dtype).max  # where small units overflow
        return ((x - self.centre) / self.width).clamp(-most, most)

    @override
    def _compressed(self, x: Tensor) -> Tensor:
        t = self._relative(x)
        return torch.where(t.abs() > 1, t.sign() * self.beyond(t.abs().clamp(min=1)), t)


class _Robust(_Compressed):
    """Median and central 90 % instead of mean and standard deviation, and |z| < 10."""

    power = 2

    @staticmethod
    @override
    def beyond(size: Tensor) -> Tensor:
        return 2 - 1 / size

    @override
    def fit(self, x: Tensor) -> Tensor:
        low, median, high = _quantiles(x, 0.05, 0.5, 0.95)
        std = (high - low) / NORMAL_BULK
        rare = std == 0  # nearly always the same value
        std = torch.where(rare, _moments(x, lambda part: part)[1], std) if rare.any() else std
        std, constant = self._floored(median, std)
        self.centre.copy_(median)
        self.width.copy_(LINEAR * std)
        self.std.fill_(1 / LINEAR)
        return constant


class _Auto(Standardize):
    """As `robust` for features of one sign, such as counts or concentrations, whose extremes are
    often far out on one side; the others are z-scored."""

    is_bent: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("is_bent", torch.zeros(dim, dtype=torch.bool))

    @override
    def fit(self, x: Tensor) -> Tensor:
        constant = super().fit(x)
        robust, one_sign = _Robust(x.shape[1]).to(x), _has_one_sign(x)
        constant = torch.where(one_sign, robust.fit(x), constant)
        self.is_bent.copy_(one_sign)
        self.mean.copy_(torch.where(one_sign, robust.centre, self.mean))
        self.std.copy_(torch.where(one_sign, robust.least_unit, self.std))
        return constant

    @override
    def forward(self, x: Tensor) -> Tensor:
        most = torch.finfo(x.dtype).max  # where small units overflow
        z = ((x - self.mean) / self.std).clamp(-most, most)
        beyond = z.sign() * LINEAR * _Robust.beyond(z.abs().clamp(min=LINEAR) / LINEAR)
        return torch.where(self.is_bent & (z.abs() > LINEAR), beyond, z)

    @override
    def unit(self, x: Tensor) -> Tensor:
        size = ((x - self.mean) / self.std).abs().clamp(min=LINEAR) / LINEAR
        return self.std * torch.where(self.is_bent, size**_Robust.power, 1.0)


class _Log(_Compressed):
    """The logarithm of features with one sign, linear below the smallest value; of others, it is
    linear below the median absolute value. Then z-scored."""

    power = 1

    @staticmethod
    @override
    def beyond(size: Tensor) -> Tensor:
        return 1 + size.log()

    @override
    def fit(self, x: Tensor) -> Tensor:
        head, one_sign = x[:QUANTILE_ROWS].double(), _has_one_sign(x)
        size = torch.where(head == 0, torch.nan, head.abs())
        width = torch.where(one_sign, size.nan_to_num(torch.inf).amin(0), size.nanmedian(0).values)
        self.width.copy_(torch.where(width.isfinite(), width, 1.0))
        return super().fit(x)


KINDS: dict[str, type[Standardize]] = {
    "auto": _Auto,
    "zscore": Standardize,
    "published": _Published,
    "robust": _Robust,
    "log": _Log,
    "none": _Unscaled,
}


def standardization(kind: str, dim: int) -> Standardize:
    """Return the standardisation of x of this kind, for `dim` features; see `KINDS`."""
    require(kind in KINDS, "standardize", kind, f"one of {', '.join(KINDS)}")
    return KINDS[kind](dim)


def is_squeezed(standardize: Standardize, x: Tensor) -> Tensor:
    """Tell which features of `x (N, D)` lie so close together after standardisation, as beside
    extreme values, that a network hardly sees them vary; bool `(D,)`."""
    low, high = _quantiles(x[:SQUEEZE_ROWS], 0.05, 0.95)
    z_low, z_high = standardize(torch.stack([low, high]).to(x.dtype))
    return (high > low) & (z_high - z_low < NORMAL_BULK / SQUEEZE)


def _has_one_sign(x: Tensor) -> Tensor:
    """Tell which features of `x (N, D)` are never negative, or never positive; bool `(D,)`."""
    head = x[:QUANTILE_ROWS]
    return (head >= 0).all(0) | (head <= 0).all(0)


def _moments(x: Tensor, transform: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of transformed data, float64, each `(D,)`."""

    def parts() -> Iterator[Tensor]:  # a copy of all data in float64 may not fit into memory
        return (transform(part.double()) for part in x.split(ROWS))

    zero = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    mean = sum((part.sum(0) for part in parts()), start=zero) / len(x)
    squares = ((part - mean).square().sum(0) for part in parts())
    return mean, (sum(squares, start=zero) / len(x)).sqrt()


def _quantiles(x: Tensor, *levels: float) -> list[Tensor]:
    """Return quantiles of each feature of `x (N, D)`, float64, each `(D,)`."""
    ordered = x[:QUANTILE_ROWS].double().sort(0).values
    return [ordered[round(level * (len(ordered) - 1))] for level in levels]
