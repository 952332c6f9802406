"""`robust-npe collect`: gather the tables of all runs into one."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from robust_npe.checks import PartialResultError, require
from robust_npe.store import OBSERVATION_COLUMNS, RESULT_COLUMNS, collect_readable, write_table

__all__ = ["main"]

COLUMNS = {"results": RESULT_COLUMNS, "observations": OBSERVATION_COLUMNS}


def main(config: DictConfig) -> str:
    """Write one tidy table with the rows of all finished runs.

    Args:
        config: Composed configuration, see `conf/collect.yaml`.

    Raises:
        FileNotFoundError: There are no runs yet.
        PartialResultError: The table was written, without runs that cannot be read.
    """
    require(config.table in COLUMNS, "table", config.table, f"one of {tuple(COLUMNS)}")
    output = Path(config.output_dir)
    table, problems = collect_readable(output / "runs", config.table)
    path = Path(config.to) if config.to else output / f"{config.table}.csv"
    write_table(table, path, COLUMNS[config.table])
    text = f"{table.run_id.nunique()} runs, {len(table)} rows: {path}"
    if problems:
        raise PartialResultError(f"{text}; left out {len(problems)}: {' '.join(problems)}")
    return text
