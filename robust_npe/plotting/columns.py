"""Columns of tidy tables: which there must be, and what their values may be."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from numbers import Real
from traceback import walk_tb
from typing import ParamSpec, TypeVar

import numpy as np
import pandas as pd

__all__ = ["UntidyTableError", "lacking", "plain_columns", "tidy"]

P = ParamSpec("P")
R = TypeVar("R")

NUMBERS = (
    *("value", "x", "theta", "observation", "quantile", "level", "epsilon"),
    *("beta", "defense_epsilon", "num_simulations", "seed", "data_seed"),
)
TEXTS = ("task", "estimator", "defense", "attack", "epsilon_unit", "metric", "statistic")
"""Columns in which no text may be missing."""
OTHER_TEXTS = ("norm", "objective", "domain", "defense_settings", "attack_settings")
"""Columns of texts that rows may lack, as clean ones do."""


class UntidyTableError(ValueError):
    """A table lacks columns of tidy results, or has values that do not belong into them."""


def tidy(draw: Callable[P, R]) -> Callable[P, R]:
    """Let a function of tables say which column they lack, or which has texts where numbers belong
    (or numbers where texts do), with an `UntidyTableError`; it is given `plain_columns`."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        plain = map(_plain, args)
        named = {name: _plain(value) for name, value in kwargs.items()}
        try:
            return draw(*plain, **named)  # type: ignore[arg-type]  # tables for tables
        except (KeyError, AttributeError) as error:
            if name := lacking(error):
                raise UntidyTableError(f"the table lacks {name}: it is not a tidy one.") from error
            raise

    return drawn


def _plain(value: object) -> object:
    return plain_columns(value) if isinstance(value, pd.DataFrame) else value


def lacking(error: KeyError | AttributeError) -> str:
    """Return the column of a table that was missing, nothing if the error has another cause."""
    if isinstance(error, AttributeError):
        return str(error.name) if isinstance(error.obj, pd.DataFrame | pd.Series) else ""
    *_, (frame, _) = walk_tb(error.__traceback__)
    of_tables = str(frame.f_globals["__name__"]).startswith("pandas.")
    return str(error.args[0]) if of_tables else ""


def plain_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with columns of numbers and texts, none of them categorical.

    Raises:
        UntidyTableError: A column of numbers holds something else, or one of texts does.
    """
    plain = {
        name: column.astype(object).infer_objects()
        for name, column in table.items()
        if isinstance(column.dtype, pd.CategoricalDtype)
    }
    table = table.assign(**{str(name): column for name, column in plain.items()})
    for name in (name for name in NUMBERS if name in table):
        if table[name].dtype == object or not isinstance(table[name].dtype, np.dtype):
            _require(table, name, Real, "a number", or_missing=True)
            table = table.assign(**{name: table[name].astype(float)})
    if "epsilon" in table:
        for radius in table.epsilon[~(table.epsilon.ge(0) & np.isfinite(table.epsilon))]:
            raise UntidyTableError(f"the column epsilon has {radius:g}: it must be a radius, or 0.")
    for name in (name for name in TEXTS if name in table):
        _require(table, name, str, "a text")
    for name in (name for name in OTHER_TEXTS if name in table):
        _require(table, name, str, "a text", or_missing=True)
    return table


def _require(
    table: pd.DataFrame, name: str, kind: type, what: str, or_missing: bool = False
) -> None:
    for value in table[name].unique():
        missing = or_missing and pd.isna(value)
        if not missing and not isinstance(value, kind):
            raise UntidyTableError(f"the column {name} has {value!r}, which is not {what}.")
