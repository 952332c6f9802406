"""Parts of an audit that need not be made again after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

__all__ = ["Keep", "at_once", "kept_table"]

Keep = Callable[[str, Callable[[], Mapping[str, Any]]], Mapping[str, Any]]
"""Maps the name of a part and its maker to its arrays, from storage where they are there."""


def at_once(name: str, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Make a part, and keep nothing."""
    return make()


def kept_table(keep: Keep, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Return a table whose columns are numbers or texts, none of them missing, as a part."""

    def columns() -> dict[str, Any]:
        return {
            str(column): values.to_numpy(str if values.dtype.kind not in "biuf" else None)
            for column, values in make().items()
        }

    return make() if keep is at_once else pd.DataFrame(dict(keep(name, columns)))
