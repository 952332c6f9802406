"""Tab completion: commands, groups, choices and keys, read from the YAML files alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from robust_npe.paths import config_directory

__all__ = ["complete"]

KEY = re.compile(r"^(\w+):", re.MULTILINE)
HIDDEN = ("defaults", "hydra")


def complete(words: Sequence[str], commands: Iterable[str]) -> list[str]:
    """Return what the last word may become.

    Args:
        words: Words after the program's name, the last one unfinished and perhaps empty.
        commands: Names of the commands.
    """
    *before, word = words or [""]
    if not before:
        return sorted(c for c in commands if c.startswith(word))
    group, assigned, start = word.partition("=")
    folder = config_directory() / group
    if assigned:
        chosen, comma, start = start.rpartition(",")
        return [f"{group}={chosen}{comma}{choice}" for choice in _choices(folder, start)]
    primary = config_directory() / f"{before[0]}.yaml"
    keys = KEY.findall(primary.read_text()) if primary.is_file() else []
    groups = [p.name for p in config_directory().iterdir() if p.is_dir()]
    names = {f"{name}=" for name in [*keys, *groups] if name not in HIDDEN}
    return sorted(name for name in names if name.startswith(word))


def _choices(folder: Path, start: str) -> list[str]:
    """Choices that continue `start`, those in subfolders as well."""
    if not folder.is_dir():
        return []
    found = (p.relative_to(folder).with_suffix("") for p in folder.rglob("*.yaml"))
    return sorted(name for name in map(str, found) if name.startswith(start))
