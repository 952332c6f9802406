"""`robust-npe prune`: remove what is no longer wanted from the store."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from robust_npe.checks import ConfigError, PartialResultError, require
from robust_npe.commands.list import of_kind, shown
from robust_npe.config import PruneConfig, checked
from robust_npe.store.inventory import COLLECTIONS, Entry, in_progress, inventory, remove

__all__ = ["main"]


def main(config: DictConfig) -> str:
    """Return what would be removed, or remove it with `delete=true`.

    Conditions hold together: an artefact must meet all that are set. What a process works on stays.

    Args:
        config: Composed configuration, see `conf/prune.yaml`.

    Raises:
        ConfigError: No condition is set.
        PartialResultError: Something could not be removed.
    """
    settings = checked(config, PruneConfig)
    days = settings["older_than"]
    require(days is None or days >= 0, "older_than", days, "a number of days, not negative")
    conditions = ("kind", "older_than", "unfinished", "older_format", "unused")
    if all(settings[name] in (None, False) for name in conditions):
        raise ConfigError(f"nothing says what to remove: set one of {', '.join(conditions)}.")
    busy = in_progress(Path(settings["output_dir"])) if settings["unused"] else []
    if busy:
        raise ConfigError(
            f"unused=true cannot be told while runs are being made ({', '.join(busy[:3])}): what "
            "they use is known when they have ended."
        )
    entries = of_kind(inventory(Path(settings["output_dir"])), settings["kind"])
    chosen = [entry for entry in entries if _meets(entry, settings)]
    if not chosen:
        return "nothing to remove"
    total = f"{len(chosen)} artefacts, {sum(entry.size for entry in chosen) / 1e6:.1f} MB"
    if not settings["delete"]:
        return f"{shown(chosen)}\nwould remove {total}: add delete=true to do so"
    kept = [f"{entry.path}: {why}" for entry in chosen if (why := remove(entry))]
    if kept:
        raise PartialResultError(f"removed {total}, except {len(kept)}: {'; '.join(kept)}.")
    return f"removed {total}"


def _meets(entry: Entry, settings: dict[str, Any]) -> bool:
    """Tell whether an artefact meets all conditions that are set."""
    days = settings["older_than"]
    old = days is None or time.time() - entry.modified >= 86400 * days
    # a run is what others are used by; unfinished artefacts may be used by the next run
    unused = entry.state == "finished" and entry.kind not in COLLECTIONS and not entry.used_by
    return (
        old
        and (entry.state == "unfinished" or not settings["unfinished"])
        and (entry.older or not settings["older_format"])
        and (unused or not settings["unused"])
    )
