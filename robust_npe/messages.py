"""What Hydra and OmegaConf find wrong with a configuration, in one line for people."""

from __future__ import annotations

import difflib
import re

from hydra.errors import MissingConfigException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from robust_npe.paths import config_directory

__all__ = ["hydra_message"]

NO_GROUP = r"Could not override '([^']+)'\.\s*No match in the defaults"
LAUNCHERS = {"joblib": "cores", "submitit_slurm": "slurm", "ray": "ray"}  # extra of each
HIDDEN = ("hydra", "_target_")  # no keys that a user sets


def hydra_message(error: Exception) -> str:
    """Say in one line what is wrong, and what may have been meant."""
    if isinstance(error, MissingConfigException):
        return _missing_choice(error)
    cause = error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return _unknown_key(cause)
    if unknown := re.match(
        r"Could not override '([^']+)'\.\s*No match in the defaults", str(error)
    ):
        return f"{unknown[1]} is no group of this command: --help lists its groups and keys."
    text = f"{error} ({cause})" if cause else str(error)
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        text = f"{error.full_key}: {text}"
    text = re.sub(r"\s*(full_key|reference_type|object_type)[:=]\s*\S*", "", text)
    return " ".join(re.sub(r"See https?:\S*hydra\S* for details", "", text).split())


def _missing_choice(error: MissingConfigException) -> str:
    """Name the choices of a group, those in subfolders included."""
    missing = error.missing_cfg_file or ""
    if extra := LAUNCHERS.get(missing.removeprefix("hydra/launcher/")):
        choice = missing.rpartition("/")[2]
        return f"hydra/launcher={extra} needs the {choice} launcher: pip install '.[{extra}]'."
    top, _, choice = missing.removeprefix("hydra/").partition("/")
    group = f"hydra/{top}" if missing.startswith("hydra/") else top
    folder = config_directory() / group
    if not choice or not folder.is_dir():
        return " ".join(str(error).split())
    choices = {str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml")}
    listing = ", ".join(sorted(choices | set(error.options or ())))
    return f"{group}={choice} does not exist. Choices: {listing}."


def _unknown_key(cause: OmegaConfBaseException) -> str:
    """Suggest the sibling that is most like a key that does not exist."""
    key = str(cause.full_key)
    section = key.rpartition(".")[0]
    prefix = f"{section}." if section else ""
    names = [str(name) for name in cause.parent_node or () if name not in HIDDEN]
    short = {"".join(part[0] for part in name.split("_")): name for name in names}  # such as lr
    wanted = str(cause.key)
    close = [short[wanted]] if wanted in short else difflib.get_close_matches(wanted, names, n=1)
    hint = f" Did you mean {prefix + close[0]!r}?" if close else ""
    if section:
        return f"there is no key {key!r}.{hint} Keys of {section}: {', '.join(names) or 'none'}."
    return f"there is no key {key!r}.{hint} Add `--cfg job` to the command to see all keys."
