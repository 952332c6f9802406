"""float32 has seven digits: values that differ in later ones only become equal."""

from __future__ import annotations

import warnings

import numpy as np

from robust_npe.checks import ConfigError

__all__ = ["check_resolution"]

ROWS = 1000  # that are looked at
UNITS = 8.0  # in the last place, that a standard deviation must be


def check_resolution(rows: np.ndarray, name: str) -> None:
    """Raise a `ConfigError` where values `(N, ...)` vary, but hardly so as float32.

    Args:
        rows: Numbers of any precision; up to 1000 rows are looked at. Those of float32 and of less
            have lost what there was to lose.
        name: What they are called in messages.
    """
    if rows.dtype.itemsize < 4 or rows.dtype == np.float32 or rows.dtype.kind == "b":
        return
    some = rows[:: max(1, len(rows) // ROWS)][:ROWS]
    flat = some.reshape(len(some), -1).astype(np.float64)
    flat[~np.isfinite(flat)] = np.nan  # what is not finite is left out elsewhere
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # of columns that are never finite
        mean, std, size = np.nanmean(flat, 0), np.nanstd(flat, 0), np.nanmax(np.abs(flat), 0)
        lost = (std > 0) & (size < np.finfo(np.float32).max)
        lost &= std < UNITS * np.spacing(size.astype(np.float32))
    if lost.any():
        j = int(lost.argmax())
        raise ConfigError(
            f"{name}: its column {j + 1} varies by {std[j]:.3g} (standard deviation) around "
            f"{mean[j]:.6g}, which the seven digits of float32 do not tell apart: "
            "subtract a constant from it, here and in what is observed."
        )
