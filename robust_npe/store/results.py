"""The tidy results: one row per number, one documented schema, checked when written and read."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

__all__ = [
    "OBSERVATION_COLUMNS",
    "RESULT_COLUMNS",
    "SchemaError",
    "collect",
    "read_table",
    "write_table",
]

log = logging.getLogger(__name__)

KEYS: dict[str, tuple[str, str]] = {
    "run_id": ("string", "hash of the run's whole configuration; names the run's folder"),
    "task": ("string", "name of the task"),
    "estimator": ("string", "name of the estimator"),
    "defense": ("string", "name of the defense"),
    "beta": ("float", "weight of the defense's penalty; empty where it has none"),
    "defense_epsilon": ("float", "training radius of the defense in units of std; may be empty"),
    "num_simulations": ("integer", "size of the training set, before non-finite ones are dropped"),
    "seed": ("integer", "seed of simulations, training and evaluation"),
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
    "epsilon_unit": ("string", "std, absolute, noise or feature"),
    "epsilon_abs": ("float", "radius in units of x; empty for epsilon_unit=feature"),
    "metric": ("string", "what was measured"),
}

RESULT_COLUMNS: dict[str, tuple[str, str]] = {
    **KEYS,
    "statistic": ("string", "how the metric is summarised over observations, e.g. median"),
    "level": ("float", "nominal level of coverage, or number of the reference observation"),
    "value": ("float", "the number; nats for nll and kl"),
}
"""Columns of results.csv: type and meaning."""

OBSERVATION_COLUMNS: dict[str, tuple[str, str]] = {
    **KEYS,
    "observation": ("integer", "index in the test set"),
    "value": ("float", "the number for this observation"),
}
"""Columns of observations.csv: type and meaning."""

_DTYPES: dict[str, Any] = {"string": "str", "float": "float64", "integer": "int64"}


class SchemaError(ValueError):
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
    temporary = path.with_name(path.name + ".new")
    table.to_csv(temporary, index=False, lineterminator="\n")
    temporary.replace(path)
    return table


def read_table(path: Path, columns: Mapping[str, tuple[str, str]] = RESULT_COLUMNS) -> pd.DataFrame:
    """Read and check a table.

    Raises:
        SchemaError: Columns are missing, unknown, or of the wrong type.
    """
    # read as text and convert here: exact for every version of pandas, and errors name the column
    table = pd.read_csv(path, dtype="str", keep_default_na=False)
    for name, (kind, _) in columns.items():
        if kind != "string" and name in table.columns:
            table[name] = table[name].replace("", "nan" if kind == "float" else "")
    return _conform(table, columns, str(path))


def collect(runs: Path, table: str = "results") -> pd.DataFrame:
    """Gather the tables of all runs below a folder into one, newest runs last.

    Runs in an older format than the newest one there were made by another version, where the same
    settings meant other numbers: they are left out, with a warning, instead of being averaged with
    the others.

    Args:
        runs: Folder with one folder per run.
        table: `results` or `observations`.

    Raises:
        FileNotFoundError: There is no finished run.
    """
    columns = RESULT_COLUMNS if table == "results" else OBSERVATION_COLUMNS
    manifests = {p: json.loads(p.read_text()) for p in runs.glob("*/manifest.json")}
    if not manifests:
        raise FileNotFoundError(f"No finished runs in {runs}: run `robust-npe train` first.")
    formats = {p: m.get("description", {}).get("format", 0) for p, m in manifests.items()}
    newest = max(formats.values())
    current = [p for p in manifests if formats[p] == newest]
    if len(current) < len(manifests):
        log.warning(
            "left out %d runs in %s that an older version made: repeat them, or use another folder",
            len(manifests) - len(current),
            runs,
        )
    order = sorted(current, key=lambda p: (manifests[p]["created"], p.parent.name))
    tables = [read_table(p.with_name(f"{table}.csv"), columns) for p in order]
    return pd.concat(tables, ignore_index=True)


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
