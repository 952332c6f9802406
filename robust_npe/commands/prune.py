"""`robust-npe prune`: remove what is no longer wanted from the store."""

from __future__ import annotations

import time
from collections.abc import Sequence
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
    conditions = ("kind", "older_than", "unfinished", "damaged", "older_format", "unused")
    if all(settings[name] is None or settings[name] is False for name in conditions):
        raise ConfigError(f"nothing says what to remove: set one of {', '.join(conditions)}.")
    found = inventory(Path(settings["output_dir"]))
    if settings["unused"]:
        _check_uses(found, in_progress(Path(settings["output_dir"])))
    chosen = [e for e in of_kind(found, settings["kind"]) if _meets(e, settings)]
    if not chosen:
        return "nothing to remove"
    if not settings["delete"]:
        return f"{shown(chosen)}\nwould remove {_total(chosen)}: add delete=true to do so"
    kept = {entry.path: why for entry in chosen if (why := remove(entry))}
    removed = f"removed {_total([entry for entry in chosen if entry.path not in kept])}"
    if kept:
        reasons = "; ".join(f"{path}: {why}" for path, why in kept.items())
        raise PartialResultError(f"{removed}; {len(kept)} stay: {reasons.rstrip('.')}.")
    return removed


def _total(entries: Sequence[Entry]) -> str:
    return f"{len(entries)} artefacts, {sum(entry.size for entry in entries) / 1e6:.1f} MB"


def _check_uses(entries: Sequence[Entry], busy: Sequence[str]) -> None:
    """Refuse to tell what is unused where it is not known what runs use."""
    if busy:
        raise ConfigError(
            f"unused=true cannot be told while runs are being made ({', '.join(busy[:3])}): what "
            "they use is known when they have ended."
        )
    unread = [str(e.path) for e in entries if e.kind == "runs" and e.state == "unreadable"]
    if unread:
        raise ConfigError(
            f"unused=true cannot be told while runs cannot be read ({', '.join(unread[:3])}): "
            "repeat their commands, or remove them with damaged=true kind=runs."
        )


def _meets(entry: Entry, settings: dict[str, Any]) -> bool:
    """Tell whether an artefact meets all conditions that are set."""
    days = settings["older_than"]
    old = days is None or time.time() - entry.modified >= 86400 * days
    # a run is what others are used by; unfinished artefacts may be used by the next run
    unused = entry.state == "finished" and entry.kind not in COLLECTIONS and not entry.used_by
    return (
        old
        and (entry.state == "unfinished" or not settings["unfinished"])
        and (entry.state in ("damaged", "unreadable") or not settings["damaged"])
        and (entry.older or not settings["older_format"])
        and (unused or not settings["unused"])
    )
