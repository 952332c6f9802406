"""Arrays of numbers from files of other programs: npy, npz, csv, parquet. Nothing is unpickled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from robust_npe.checks import ConfigError, require

__all__ = ["read_array"]


def read_array(
    path: Path, what: str, name: str | None = None
) -> tuple[np.ndarray, list[str] | None]:
    """Read an array of real numbers with one row per simulation.

    Args:
        path: An npy file; npz with one array, or one that is called `what`; csv with a header;
            parquet. Arrays of npy files are mapped, not read.
        what: `theta` or `x`.
        name: What the setting is called, for messages; None for `task.<what>`.

    Returns:
        The array `(N, ...)`, and the names of the columns where the file holds them.

    Raises:
        ConfigError: The file is not there or damaged, or holds something else.
    """
    name = name or f"task.{what}"
    require(path.is_file(), name, str(path), "the path of a file")
    reader = READERS.get(path.suffix.lower())
    require(reader is not None, name, str(path), f"a file with one of {', '.join(READERS)}")
    assert reader is not None
    try:
        array, names = reader(path, what, name)
    except ConfigError:
        raise
    except ImportError as error:
        raise ConfigError(
            f"{name}={str(path)!r}: reading it needs a package: pip install pyarrow."
        ) from error
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        found = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(f"{name}={str(path)!r} cannot be read: {found}.") from error
    if array.dtype.kind not in "fiub" or array.ndim == 0 or 0 in array.shape:
        raise ConfigError(
            f"{name}={str(path)!r} holds {array.dtype} of shape {array.shape}, expected real "
            "numbers with one row per simulation."
        )
    return array, names


def _npy(path: Path, what: str, name: str) -> tuple[np.ndarray, None]:
    return np.load(path, mmap_mode="c", allow_pickle=False), None


def _npz(path: Path, what: str, name: str) -> tuple[np.ndarray, None]:
    with np.load(path, allow_pickle=False) as stored:
        key = what if what in stored.files else stored.files[0] if len(stored.files) == 1 else None
        if key is None:
            raise ConfigError(
                f"{name}={str(path)!r} holds the arrays {', '.join(stored.files)}: call one "
                f"of them {what}."
            )
        return stored[key], None


def _csv(path: Path, what: str, name: str) -> tuple[np.ndarray, list[str]]:
    return _columns(pd.read_csv(path), path, name)


def _parquet(path: Path, what: str, name: str) -> tuple[np.ndarray, list[str] | None]:
    table = pd.read_parquet(path)
    if not all(_is_number(str(column)) for column in table.columns):
        return _columns(table, path, name)
    named = table.rename(columns=lambda number: f"column {number}")  # pandas counts where none are
    return _columns(named, path, name)[0], None


def _columns(table: pd.DataFrame, path: Path, setting: str) -> tuple[np.ndarray, list[str]]:
    names = [str(column) for column in table.columns]
    if table.empty:
        raise ConfigError(f"{setting}={str(path)!r} has no rows, expected one per simulation.")
    for name, column in table.items():
        if column.dtype.kind not in "fiub":
            raise ConfigError(
                f"{setting}={str(path)!r}: its column {name!r} holds {column.dtype}, expected "
                "real numbers."
            )
    if any(_is_number(name) for name in names):
        raise ConfigError(
            f"{setting}={str(path)!r} has the numbers {', '.join(names[:3])} in its first line, "
            "expected names of the columns."
        )
    return table.to_numpy(dtype=np.float64), names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


READERS: dict[str, Callable[[Path, str, str], tuple[np.ndarray, list[str] | None]]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".csv": _csv,
    ".parquet": _parquet,
}
