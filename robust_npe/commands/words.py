"""Commands as one types them: the one that runs now, and others that follow from it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from robust_npe.checks import ConfigError
from robust_npe.commands.experiment import Experiment
from robust_npe.consent import VARIABLE

__all__ = ["experiment_of", "key_of", "typed", "with_changes"]

QUOTED = re.compile("'([0-9a-f]{16})'")  # an id of a run, see `launch`


def typed(command: str) -> list[str]:
    """Return the words of the command that runs now, with consent to modules; none where it was not
    started from the command line.

    Args:
        command: Its name, e.g. `audit`.
    """
    if not HydraConfig.initialized():
        return []
    hydra = HydraConfig.get()
    given = [part for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    modules = [word for module in given for word in ("--module", _short(module))]
    sources = [s.path for s in hydra.runtime.config_sources if s.provider == "command-line"]
    folders = [word for folder in sources for word in ("--config-dir", _short(folder))]
    overrides = [QUOTED.sub(r"\1", word) for word in hydra.overrides.task]
    return ["robust-npe", *modules, command, *folders, *overrides]


def with_changes(words: Sequence[str], changes: Mapping[str, str | None]) -> str:
    """Return a command with other values of some keys, or without them (None), as one types it.

    Keys below a key that changes are left out: they are of the choice before.
    """
    kept = [word for word in words if key_of(word) not in changes]
    kept += [f"{key}={value}" for key, value in changes.items() if value is not None]
    return shlex.join(kept)


def experiment_of(train: str) -> Experiment | None:
    """Return what a `robust-npe train` command describes; None where that does not fit together."""
    words = shlex.split(train)
    overrides = words[words.index("train") + 1 :]
    while overrides[:1] == ["--config-dir"]:
        overrides = overrides[2:]
    try:
        return Experiment(compose("train", overrides=overrides))
    except (ConfigError, HydraException, OmegaConfBaseException):
        return None


def key_of(word: str) -> str:
    """Return the group or key that a word sets, e.g. `attack` for `attack.steps=5`."""
    return re.split("[.=]", word.lstrip("+"))[0] if "=" in word else word


def _short(path: str) -> str:
    """Return a path as seen from the present folder where it is below that."""
    full, here = Path(path), Path.cwd()
    return str(full.relative_to(here)) if full.is_relative_to(here) else path
