"""`robust-npe list`: what is stored."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from robust_npe.checks import require
from robust_npe.config import ListConfig, checked
from robust_npe.files import write_atomically
from robust_npe.store.inventory import Entry, inventory

__all__ = ["main", "of_kind", "table"]


def main(config: DictConfig) -> str:
    """Return a table of all artefacts, and write it as CSV where `to` says.

    Args:
        config: Composed configuration, see `conf/list.yaml`.
    """
    settings = checked(config, ListConfig)
    output = Path(settings["output_dir"])
    entries = of_kind(inventory(output), settings["kind"])
    if settings["to"]:
        text = table(entries).to_csv(index=False, lineterminator="\n")
        write_atomically(Path(settings["to"]), text.encode())
    if not entries:
        return f"nothing is stored in {output}"
    total = sum(entry.size for entry in entries)
    return f"{shown(entries)}\n{len(entries)} artefacts, {total / 1e6:.1f} MB in {output}"


def of_kind(entries: Sequence[Entry], kind: str | None) -> list[Entry]:
    """Return the artefacts of a kind, all if it is None.

    Raises:
        ConfigError: There are none of this kind, but of others.
    """
    kinds = sorted({entry.kind for entry in entries})
    known = kind is None or kind in kinds or not kinds
    require(known, "kind", kind, f"one of {', '.join(kinds)}")
    return [entry for entry in entries if kind in (None, entry.kind)]


def table(entries: Sequence[Entry]) -> pd.DataFrame:
    """Return a row for each artefact: size in bytes, age in days."""
    now = time.time()
    rows = [
        {
            "kind": entry.kind,
            "key": entry.key,
            "state": entry.state + (", older format" if entry.older else ""),
            **{part: entry.name_of(part) for part in ("task", "estimator", "defense")},
            "size": entry.size,
            "age": max(0.0, (now - entry.modified) / 86400),
            "runs": " ".join(entry.used_by),
        }
        for entry in entries
    ]
    return pd.DataFrame(rows)


def shown(entries: Sequence[Entry]) -> str:
    """Return the table for people; of the runs that use an artefact, their number."""
    rows = table(entries)
    rows["size"] = (rows["size"] / 1e6).map("{:.1f} MB".format)
    rows["age"] = rows.age.map("{:.1f} d".format)
    rows["runs"] = [len(entry.used_by) for entry in entries]
    return rows.to_string(index=False)
