"""Tab completion: commands, groups, choices and keys, read from the YAML files alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from robust_npe.paths import config_directory

__all__ = ["complete"]

HIDDEN = ("defaults", "hydra", "_target_")


def complete(words: Sequence[str], commands: Iterable[str]) -> list[str]:
    """Return what the last word may become.

    Args:
        words: Words after the program's name, the last one unfinished and perhaps empty.
        commands: Names of the commands.
    """
    *before, word = words or [""]
    command = next((given for given in before if given in commands), None)
    if command is None:
        return sorted(c for c in commands if c.startswith(word))
    group, assigned, value = word.partition("=")
    if assigned:
        start = max(value.rfind(","), value.rfind("[")) + 1
        choices = _choices(config_directory() / group, value[start:])
        return [f"{group}={value[:start]}{choice}" for choice in choices]
    groups = [f"{p.name}=" for p in config_directory().iterdir() if p.is_dir()]
    names = {*groups, *_keys(command, before)} - {f"{name}=" for name in HIDDEN}
    return sorted({_next_part(name, len(word)) for name in names if name.startswith(word)})


def _choices(folder: Path, start: str) -> list[str]:
    """Choices that continue `start`, those in subfolders as well."""
    if not folder.is_dir():
        return []
    found = (p.relative_to(folder).with_suffix("") for p in folder.rglob("*.yaml"))
    return sorted(name for name in map(str, found) if name.startswith(start))


def _keys(command: str, words: Sequence[str]) -> Iterator[str]:
    """Keys of a command's file and of the choices that hold, with their sections and `=`."""
    primary = _read(config_directory() / f"{command}.yaml")
    chosen: dict[str, Any] = {}
    for entry in primary.get("defaults", ()):
        chosen |= entry if isinstance(entry, dict) else {}
    chosen |= dict(word.split("=", 1) for word in words if "=" in word)
    yield from _dotted(primary)
    for group, choice in chosen.items():
        content = _read(config_directory() / group / f"{choice}.yaml")
        yield from _dotted({group: content} if "_target_" in content else content)


def _read(path: Path) -> dict[str, Any]:
    return (yaml.safe_load(path.read_text()) or {}) if path.is_file() else {}


def _dotted(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in content.items():
        if key in HIDDEN:
            continue
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}="


def _next_part(name: str, start: int) -> str:
    """Cut a name after the first dot behind what was typed: sections open one by one."""
    dot = name.find(".", start)
    return name if dot < 0 else name[: dot + 1]
