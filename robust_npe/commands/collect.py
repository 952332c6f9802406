"""`robust-npe collect`: gather the tables of all runs into one."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from robust_npe.checks import PartialResultError, require
from robust_npe.config import CollectConfig, checked
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
    settings = checked(config, CollectConfig)
    kind, output = settings["table"], Path(settings["output_dir"])
    require(kind in COLUMNS, "table", kind, f"one of {tuple(COLUMNS)}")
    table, problems = collect_readable(output / "runs", kind)
    path = Path(settings["to"] or output / f"{kind}.csv")
    write_table(table, path, COLUMNS[kind])
    text = f"{table.run_id.nunique()} runs, {len(table)} rows: {path}"
    if problems:
        raise PartialResultError(f"{text}; left out {len(problems)}: {' '.join(problems)}")
    return text
