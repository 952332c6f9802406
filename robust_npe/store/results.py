"""The tidy results: one row per number, one documented schema, checked when written and read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from robust_npe.files import StoreError, open_plain, write_atomically

__all__ = [
    "OBSERVATION_COLUMNS",
    "RESULT_COLUMNS",
    "SchemaError",
    "read_table",
    "write_table",
]

KEYS: dict[str, tuple[str, str]] = {
    "run_id": ("string", "hash of the run's whole configuration; names the run's folder"),
    "task": ("string", "name of the task"),
    "estimator": ("string", "name of the estimator"),
    "defense": ("string", "name of the defense"),
    "beta": ("float", "weight of the defense's penalty; empty where it has none"),
    "defense_epsilon": ("float", "training radius of the defense in units of std; may be empty"),
    "defense_settings": (
        "string",
        "other settings of the defense that differ from its defaults, e.g. gradient=exact; empty "
        "for none",
    ),
    "num_simulations": ("integer", "size of the training set, before non-finite ones are dropped"),
    "seed": ("integer", "seed of the training"),
    "data_seed": ("integer", "seed of the simulations"),
    "attack": ("string", "name of the attack; `none` for clean observations"),
    "norm": ("string", "l1, l2 or linf; empty for clean observations"),
    "objective": ("string", "what the attack climbs; empty where it climbs nothing"),
    "attack_settings": (
        "string",
        "settings of attack and objective that differ from their defaults, e.g. steps=20; "
        "empty for none",
    ),
    "domain": ("string", "data, task or none; empty for clean observations"),
    "epsilon": ("float", "radius of the attack in epsilon_unit; 0 for clean observations"),
    "epsilon_unit": ("string", "std, absolute, noise, feature or auto"),
    "epsilon_abs": ("float", "radius in units of x; empty for epsilon_unit=feature, auto"),
    "metric": ("string", "what was measured"),
}

RESULT_COLUMNS: dict[str, tuple[str, str]] = {
    **KEYS,
    "statistic": ("string", "how the metric is summarised over observations, e.g. median"),
    "level": ("float", "nominal level, radius, or number of the parameter, reference or draws"),
    "value": ("float", "the number; nats for nll and kl; inf is a number, empty means missing"),
}
"""Columns of results.csv: type and meaning."""

OBSERVATION_COLUMNS: dict[str, tuple[str, str]] = {
    **KEYS,
    "observation": ("integer", "index in the test set"),
    "value": ("float", "the number for this observation"),
}
"""Columns of observations.csv: type and meaning."""

_DTYPES: dict[str, Any] = {"string": "str", "float": "float64", "integer": "int64"}


class SchemaError(StoreError):
    """A table does not have the documented columns or types."""


def write_table(
    rows: Iterable[Mapping[str, Any]] | pd.DataFrame,
    path: Path,
    columns: Mapping[str, tuple[str, str]],
) -> pd.DataFrame:
    """Check a table, and write it atomically with columns in the documented order.

    Numbers are written so that reading gives the same float64 back.
    """
    table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    table = _conform(table, columns, str(path))
    write_atomically(path, table.to_csv(index=False, lineterminator="\n").encode())
    return table


def read_table(path: Path, columns: Mapping[str, tuple[str, str]] = RESULT_COLUMNS) -> pd.DataFrame:
    """Read and check a table.

    Raises:
        SchemaError: It is no table, or columns are missing, unknown, or of the wrong type.
        StoreError: It cannot be read.
    """
    # read as text and convert here: exact for every version of pandas, and errors name the column
    with open_plain(path, "table") as file:
        try:
            table = pd.read_csv(file, dtype="str", keep_default_na=False)
        except ValueError as error:  # of pandas' parser, or text that is not UTF-8
            raise SchemaError(f"{path}: not a table ({str(error).strip()}).") from error
    for name, (kind, _) in columns.items():
        if kind != "string" and name in table.columns:
            table[name] = table[name].replace("", "nan" if kind == "float" else "")
    return _conform(table, columns, str(path))


def _conform(
    table: pd.DataFrame, columns: Mapping[str, tuple[str, str]], where: str
) -> pd.DataFrame:
    missing = [name for name in columns if name not in table.columns]
    unknown = [name for name in table.columns if name not in columns]
    if missing or unknown:
        raise SchemaError(f"{where}: missing columns {missing}, unknown columns {unknown}.")
    converted = {}
    for name, (kind, _) in columns.items():
        column = table[name].fillna("") if kind == "string" else table[name]
        try:
            converted[name] = column.astype(_DTYPES[kind])
            if kind == "integer" and (converted[name] != column.astype("float64")).any():
                raise ValueError("there are fractions")
        except (ValueError, TypeError) as error:
            raise SchemaError(f"{where}: column {name} must be of type {kind}: {error}") from error
    return pd.DataFrame(converted)
