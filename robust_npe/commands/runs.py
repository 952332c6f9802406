"""Earlier runs: where they are, what they were told, and the estimators that they used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from robust_npe.checks import ConfigError
from robust_npe.store import Artefact, Store, finished, read_yaml_config

__all__ = ["earlier_config", "run_folder", "stored_estimators", "training_command"]


def run_folder(given: str, runs: Path, name: str = "run") -> Path:
    """Return the folder of a run.

    Args:
        given: Its id, or its folder.
        runs: Where runs of an id are.
        name: What the setting is called, for messages.

    Raises:
        ConfigError: There is none.
    """
    for folder in (runs / given, Path(given)):
        if (folder / "manifest.json").is_file():
            return folder.resolve()
    known = sorted(artefact.path.name for artefact in finished(runs))
    listing = ", ".join(known) if known else "there are none yet"
    raise ConfigError(f"{name}={given!r} was not found. Runs in {runs}: {listing}.")


def earlier_config(folder: Path, name: str = "run") -> dict[str, Any]:
    """Return the configuration of the run in a folder.

    Raises:
        ConfigError: It was made by a version whose settings had other names.
        CorruptArtefactError: It was changed after it had been stored.
    """
    earlier = Artefact(folder, folder.name, created=False).verify("config.yaml")
    if "format" in earlier.manifest["description"]:
        raise ConfigError(
            f"{name}={folder.name!r} was made by an older version of robust-npe, which named its "
            "settings otherwise: use that version, or train again with `robust-npe train`."
        )
    config = read_yaml_config(folder / "config.yaml")
    config.pop("checkpoint_every", None)  # now of the section training; it changes no number
    return config


def stored_estimators(store: Store, folder: Path, name: str = "run") -> list[Artefact]:
    """Return the trained estimators that the run in a folder used.

    Raises:
        ConfigError: The store lacks one.
    """
    facts = Artefact(folder, folder.name, created=False).manifest.get("facts", {})
    keys = facts.get("estimators")
    found = []
    for key in map(str, keys if isinstance(keys, list) and keys else [None]):
        estimator = store.find("estimators", key) if re.fullmatch("[0-9a-f]{16}", key) else None
        if estimator is None:
            raise ConfigError(
                f"{name}={str(folder)!r}: its estimator {key} is not in {store.root}, or damaged. "
                "Bring that folder along with the run, or train again with `robust-npe train`."
            )
        found.append(estimator)
    return found


def training_command(folder: Path) -> list[str]:
    """Return the words of the command that trained what the run in a folder used; none where it was
    not started from the command line."""
    facts = Artefact(folder, folder.name, created=False).manifest.get("facts", {})
    words = facts.get("command")
    return list(map(str, words)) if isinstance(words, list) else []
