"""From tidy results to what is drawn: cells, their seeds, and what speaks against them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd

from robust_npe.metrics.soundness import FLAGS
from robust_npe.plotting.columns import UntidyTableError, plain_columns

__all__ = [
    "DEFENSE",
    "MARKS",
    "SEEDS",
    "MixedRunsError",
    "NothingToDrawError",
    "cells",
    "marks_note",
    "marks_of",
    "most_seeds",
    "not_told_from_zero",
    "points",
    "require_comparable",
    "require_one",
    "require_one_setting",
    "seeds_note",
    "text_of",
]

SETTINGS = (
    "estimator",
    "defense",
    "beta",
    "defense_epsilon",
    "defense_settings",
    "num_simulations",
    "attack",
    "norm",
    "objective",
    "attack_settings",
    "domain",
    "epsilon_unit",
)
"""Columns of the results in which runs must agree before they are averaged."""

DEFENSE = ("defense", "beta", "defense_epsilon", "defense_settings")
TOGETHER = {
    **dict.fromkeys(DEFENSE, DEFENSE),
    "attack": ("attack", "objective", "attack_settings"),
}
"""Settings that differ with the one that tells lines apart."""

CELL = ["task", *SETTINGS, "epsilon", "metric", "statistic", "level"]
SEEDS = ["seed", "data_seed"]
TEXTS = ["defense_settings", "attack_settings"]
"""Columns of texts whose empty ones `pandas.read_csv` reads as NaN."""
TELL = ", or tell them apart (compare=..., of coverage plots rows=...)"
LARGEST_ERROR = 1.0  # nats, of a value that may count as zero

MARKS = {
    "diverged": ("†", "a training diverged (earlier weights were restored)"),
    "flagged": ("*", "an attack's result is flagged as unsound"),
    "fewer": ("‡", "fewer seeds than the figure has"),
}
"""What speaks against a cell: its mark, and the meaning for the caption."""


class NothingToDrawError(ValueError):
    """A table has no rows of what a plot shows."""


class MixedRunsError(ValueError):
    """A table holds runs that differ in something that a plot does not tell apart."""


def cells(table: pd.DataFrame, metrics: Collection[str]) -> pd.DataFrame:
    """Return the rows of some metrics, each measurement once, with what speaks against them.

    Clean observations are measured again in every run that attacks the same estimator: equal rows
    of several runs count once.

    Args:
        table: Tidy results of one or more runs.
        metrics: Their names.

    Returns:
        The rows, with the columns `diverged`, `flagged` and `fewer` (see `MARKS`).

    Raises:
        NothingToDrawError: There are none.
        UntidyTableError: Columns are missing, or values are no numbers.
        MixedRunsError: Two runs differ in something that no column tells, or in their scale.
    """
    lacking = [name for name in ("run_id", *CELL, *SEEDS, "value") if name not in table]
    if lacking:
        raise UntidyTableError(f"the table lacks {', '.join(lacking)}: it is not a tidy one.")
    table = plain_columns(table)
    require_one(table, "the figure", ())
    for name in (name for name in SEEDS if table[name].isna().any()):
        raise UntidyTableError(f"the column {name} has nan: runs are told apart by their seeds.")
    filled = {name: table[name].astype(object).where(table[name].notna(), "") for name in TEXTS}
    rows = table.assign(**filled)
    rows = rows[rows.metric.isin([*metrics])]
    if rows.empty:
        raise NothingToDrawError(f"no rows with metric {' or '.join(metrics)}")
    bad = (table.metric == "training") & (table.statistic == "diverged") & (table.value > 0)
    blind = FLAGS["zero_gradients"].high
    unsound = (table.metric == "soundness") & (table.statistic == "flagged") & (table.value > 0)
    unsound |= (table.statistic == "zero_gradient_fraction") & (table.value > blind)
    attacked = pd.MultiIndex.from_frame(rows[["run_id", "epsilon"]])
    suspects = pd.MultiIndex.from_frame(table[unsound][["run_id", "epsilon"]])
    rows = rows.assign(
        diverged=rows.run_id.isin(table[bad].run_id),
        flagged=attacked.isin(suspects) & (rows.epsilon > 0),
    )
    return _with_fewer(_once(rows))


def _once(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep one of equal rows; rows that differ by nothing but their value may not be averaged."""
    if rows[rows.statistic == "coverage"].level.isna().any():
        raise UntidyTableError("the column level has nan, in rows of coverage curves.")
    rows = rows.drop_duplicates([*CELL, *SEEDS, "value"])
    twice = rows[rows.duplicated([*CELL, *SEEDS], keep=False)]
    if len(twice):
        first = twice.merge(twice[[*CELL, *SEEDS]].iloc[:1])
        raise MixedRunsError(
            f"Runs {', '.join(map(str, first.run_id.unique()))} have equal settings and seeds but "
            f"differ in {first.metric.iloc[0]}: select one of them before plotting."
        )
    return rows


def _with_fewer(rows: pd.DataFrame) -> pd.DataFrame:
    seeds = rows.seed.astype(str) + " " + rows.data_seed.astype(str)
    count = seeds.groupby([rows[name] for name in CELL], dropna=False).transform("nunique")
    of_task = seeds.groupby([rows.task, rows.metric]).transform("nunique")
    return rows.assign(fewer=count < of_task.groupby(rows.metric).transform("max"))


def require_one_setting(table: pd.DataFrame, where: str, but: Collection[str] = ()) -> None:
    """Refuse to average over anything but seeds of the training.

    Args:
        table: What one line is drawn from.
        where: Name of the line, for the message.
        but: Columns in which the rows may differ, as the plot tells them apart.

    Raises:
        MixedRunsError: The rows differ in a setting, which is named.
    """
    require_one(table, where, [name for name in SETTINGS if name in table and name not in but])


def require_comparable(table: pd.DataFrame, where: str, *told: str) -> None:
    """Refuse to show beside each other what differs in more than a plot tells apart.

    Args:
        table: What the lines of a panel are drawn from.
        where: Name of the panel, for the message.
        told: The columns that tell lines or points apart.

    Raises:
        MixedRunsError: The rows differ in another setting, which is named.
    """
    but = {name for column in told for name in TOGETHER.get(column, (column,))}
    for rows in (table[table.attack == "none"], table[table.attack != "none"]):
        require_one_setting(rows, where, but)


def require_one(rows: pd.DataFrame, where: str, columns: Collection[str]) -> None:
    """Refuse rows that differ in a column, or in their scale where they have that one.

    Raises:
        MixedRunsError: The column is named.
    """
    for name in [*columns, *(["scale"] if "scale" in rows else [])]:
        values = rows[name].unique()
        if len(values) > 1:
            raise MixedRunsError(
                f"The rows for {where} mix {name} {', '.join(map(str, values))}: "
                f"select one of them before plotting{TELL * (name in SETTINGS)}."
            )


def points(
    rows: pd.DataFrame,
    metric: str,
    statistic: str = "median",
    x: str = "epsilon",
    positive: bool = False,
) -> pd.DataFrame:
    """Return what is drawn of one line.

    Args:
        rows: Of one line, from `cells`.
        metric: The metric.
        statistic: The statistic; `median` comes with quantiles over observations.
        x: Column of the horizontal axis.
        positive: Whether what is not more than two standard errors (`median_se`) above zero counts
            as zero.

    Returns:
        Indexed by `x`: `middle`, the mean over seeds, NaN where that of one seed is; `q15` and
        `q85`, quantiles over observations, means over seeds; `least` and `most` of the seeds
        where they differ; `mark`.
    """
    own = rows[rows.metric == metric]
    wanted = own[own.statistic == statistic].groupby(x)
    ends = {"least": wanted.value.min(), "most": wanted.value.max()}
    middle = wanted.value.agg(lambda value: value.mean(skipna=False))
    drawn = pd.DataFrame({"middle": middle, **ends})
    drawn.loc[drawn.least == drawn.most, ["least", "most"]] = np.nan
    spread = own.groupby(["statistic", x]).value.mean().unstack("statistic")
    spread = spread.reindex(index=drawn.index, columns=["q15", "q85", "median_se"])
    for name in ("q15", "q85"):
        drawn[name] = (spread[name] if statistic == "median" else np.nan) * 1.0
        drawn[name] = drawn[name].fillna(drawn.middle)
    if positive:
        unresolved = not_told_from_zero(drawn.middle, spread.median_se.fillna(0))
        drawn.loc[unresolved, ["middle", "q15"]] = 0.0
        drawn.loc[unresolved & drawn.least.notna(), "least"] = 0.0
    drawn["mark"] = [_mark(group) for _, group in wanted]
    return drawn


def not_told_from_zero(value: pd.Series, error: pd.Series) -> pd.Series:
    """Tell which values are within two standard errors of zero, and small: an estimate with an
    error of more than a nat says that it failed, not that nothing moved."""
    return (value <= 2 * error) & (value.le(0) | error.le(LARGEST_ERROR))


def _mark(group: pd.DataFrame) -> str:
    return marks_of(group[[*MARKS]].any())


def marks_of(row: Mapping[Any, Any] | pd.Series) -> str:
    """Return the marks of what speaks against a row from `cells`."""
    return "".join(mark for name, (mark, _) in MARKS.items() if row[name])


def marks_note(rows: pd.DataFrame) -> list[str]:
    """Return the meaning of the marks that rows from `cells` carry, for the caption."""
    return [f"{mark}: {meaning}." for name, (mark, meaning) in MARKS.items() if rows[name].any()]


def most_seeds(rows: pd.DataFrame) -> int:
    """Return how many seeds the task with most of them has."""
    return int(rows.drop_duplicates(["task", *SEEDS]).groupby("task").size().max())


def seeds_note(rows: pd.DataFrame) -> list[str]:
    """Return what is drawn where runs differ by their seed, for the caption."""
    count = most_seeds(rows)
    return [f"Means over seeds ({count}); bands: their range."] if count > 1 else []


def text_of(value: object) -> str:
    """Return a value of a column as lines are named after it."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 1e6 <= abs(value) < 1e15 and value.is_integer() else f"{value:g}"
