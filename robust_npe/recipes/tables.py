"""Tables of figures: what is drawn, as small files that can be committed."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from robust_npe.files import StoreError, open_plain, write_atomically
from robust_npe.recipes.recipe import Recipe
from robust_npe.store import OBSERVATION_COLUMNS, RESULT_COLUMNS

__all__ = ["observations", "read_tables", "results", "selected", "write_tables"]

Tables = Mapping[str, pd.DataFrame]

TYPES = {name: kind for name, (kind, _) in {**RESULT_COLUMNS, **OBSERVATION_COLUMNS}.items()}
DIGITS = "%.6g"
MAX_BYTES = 2**27


def results(recipes: Sequence[Recipe]) -> dict[str, pd.DataFrame]:
    """Return the results of all runs of some recipes, each run once, as the table `results`."""
    return {"results": _joined([recipe.table() for recipe in recipes])}


def observations(recipes: Sequence[Recipe]) -> dict[str, pd.DataFrame]:
    """Return the same for each observation, as the table `observations`."""
    return {"observations": _joined([recipe.observations() for recipe in recipes])}


def selected(**values: Sequence[Any]) -> Callable[[Sequence[Recipe]], dict[str, pd.DataFrame]]:
    """Return a function as `results`, which keeps the rows with certain values in some columns.

    Args:
        values: The values, by column, e.g. `defense=["none", "fim"]`.
    """

    def gather(recipes: Sequence[Recipe]) -> dict[str, pd.DataFrame]:
        table = results(recipes)["results"]
        for column, kept in values.items():
            table = table[table[column].isin(kept)]
        return {"results": table}

    return gather


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    seen: set[str] = set()
    parts = []
    for table in tables:
        parts.append(table[~table.run_id.isin(seen)])
        seen |= set(table.run_id)
    return pd.concat(parts, ignore_index=True)


def write_tables(tables: Tables, figure: str, folder: Path) -> list[Path]:
    """Write tables as `<figure>_<name>.csv.gz`, six digits each; equal ones are equal bytes."""
    paths = []
    for name, table in tables.items():
        path = folder / f"{figure}_{name}.csv.gz"
        text = table.to_csv(index=False, lineterminator="\n", float_format=DIGITS)
        write_atomically(path, gzip.compress(text.encode(), mtime=0))
        paths.append(path)
    return paths


def read_tables(figure: str, folder: Path) -> dict[str, pd.DataFrame]:
    """Read what `write_tables` wrote; columns that all hold numbers are numbers.

    Raises:
        StoreError: There is nothing, or it is no table.
    """
    paths = sorted(folder.glob(f"{figure}_*.csv.gz"))
    if not paths:
        raise StoreError(f"there are no tables of {figure} in {folder}.")
    return {path.name[len(figure) + 1 : -len(".csv.gz")]: _read(path) for path in paths}


def _read(path: Path) -> pd.DataFrame:
    with open_plain(path, "table", MAX_BYTES) as file:
        try:
            with gzip.open(file) as text:
                table = pd.read_csv(text, dtype="str", keep_default_na=False)
        except (ValueError, OSError, EOFError) as error:
            raise StoreError(f"{path} is no table: {error}.") from error
    return table.apply(_typed)


def _typed(column: pd.Series) -> pd.Series:
    """Numbers where all are; what is empty is NaN among numbers only."""
    if TYPES.get(str(column.name)) == "string":
        return column
    try:
        return pd.to_numeric(column.replace("", None))
    except ValueError:
        return column
