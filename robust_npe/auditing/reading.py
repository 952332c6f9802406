"""Observations from files, in the order of features that a task knows."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robust_npe.auditing.case import checked_rows
from robust_npe.checks import ConfigError
from robust_npe.tasks.reading import read_array

__all__ = ["read_any", "read_rows"]

log = logging.getLogger(__name__)

NUMBERED = re.compile(r"\w+_\d+(,\d+)*")  # names that a task gives where nobody else does


def read_rows(setting: str, path: Path, shape: Sequence[int], names: Sequence[str]) -> Tensor:
    """Read observations, or parameters, `(B, K)`.

    Args:
        setting: `x` or `theta`, for messages.
        path: The file, see `robust_npe.tasks.reading.read_array`.
        shape: Shape of one of them as its maker knows it, with a product of K; the file holds one,
            or any number of them, in this shape or flattened.
        names: Names of the K numbers: columns of these names may come in any order.

    Raises:
        ConfigError: The file is not there or damaged, or holds something else, in one line.
    """
    array, columns = read_array(path, setting, setting)
    array = _float32(array)
    size, own = math.prod(shape), tuple(shape)
    one = array.shape in (own, (size,)) and (array.ndim > 1 or size > 1)
    rows = array.reshape(1, size) if one else array
    flat = rows.reshape(len(rows), -1)
    if array.ndim == 1 and size == 1:
        flat = array.reshape(-1, 1)
    if flat.shape[1] != size:
        what = "columns" if columns else f"values in each row (its shape is {array.shape})"
        raise ConfigError(
            f"{setting}={str(path)!r} has {flat.shape[1]} {what}, expected {size}: "
            f"{_listed(names)}."
        )
    finite = checked_rows(f"{setting}={str(path)!r}", torch.from_numpy(flat))
    return finite[:, _order(setting, path, columns, names)]


def read_any(setting: str, path: Path, size: int | None) -> tuple[Tensor, list[str] | None]:
    """As `read_rows`, where nobody knows names: rows `(B, K)`, and the names of their columns where
    the file has them. Of arrays with one axis, each number is a row if K is 1; else there is one.

    Args:
        setting: As for `read_rows`, and so is
        path: the file.
        size: K, None where it is not known.
    """
    array, columns = read_array(path, setting, setting)
    array = _float32(array)
    flat = array.reshape(len(array), -1) if array.ndim > 1 or size == 1 else array.reshape(1, -1)
    if size not in (None, flat.shape[1]):
        what = f"{flat.shape[1]} numbers in each row (its shape is {array.shape})"
        raise ConfigError(f"{setting}={str(path)!r} has {what}, the posterior takes {size}.")
    return checked_rows(f"{setting}={str(path)!r}", torch.from_numpy(flat)), columns


def _float32(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused then
        return array.astype(np.float32)


def _order(
    setting: str, path: Path, columns: Sequence[str] | None, names: Sequence[str]
) -> list[int]:
    """Return where the features are. Columns of other names are taken as they come only where the
    features have none of their own, and people are told."""
    if not columns:
        return list(range(len(names)))
    shared = set(columns) & set(names)
    if not shared and not all(map(NUMBERED.fullmatch, names)):
        raise ConfigError(
            f"{setting}={str(path)!r} has the columns {_listed(columns)}, expected "
            f"{_listed(names)}, in any order: rename them."
        )
    if not shared:
        if columns != list(names):
            log.info(
                "%s: the columns %s are taken, in this order, for %s",
                setting, _listed(columns), _listed(names),
            )  # fmt: skip
        return list(range(len(names)))
    if len(shared) < len(names):
        missing = _listed([name for name in names if name not in shared])
        raise ConfigError(f"{setting}={str(path)!r} has no column {missing}.")
    return [columns.index(name) for name in names]


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
