"""Run a command through Hydra, and say in one line what a user can do about what went wrong."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import logging
import os
import re
import sys
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from robust_npe.checks import ConfigError, PartialResultError
from robust_npe.cli import fail
from robust_npe.config import TrainConfig, prepare_hydra
from robust_npe.files import StoreError
from robust_npe.paths import config_directory

__all__ = ["launch"]

log = logging.getLogger(__name__)

USER_ERRORS = (
    ConfigError,
    FileNotFoundError,
    FloatingPointError,
    ImportError,
    PartialResultError,
    StoreError,
)


def launch(command: str, *overrides: str) -> int:
    """Run a command and return its exit status.

    Args:
        command: Name of a module of `robust_npe.commands`.
        overrides: Options of Hydra and overrides, as on the command line.
    """
    try:
        _run_hydra(command, *overrides)
    except MissingConfigException as error:
        return fail(_missing_choice(error))
    except (HydraException, OmegaConfBaseException) as error:
        return fail(_hydra_message(error))
    except USER_ERRORS as error:
        return fail(str(error), status=1 if isinstance(error, PartialResultError) else 2)
    return 0


def _run_hydra(command: str, *overrides: str) -> None:
    prepare_hydra()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand exceptions to us instead of printing them
    sys.argv = ["robust-npe", *overrides]

    failures: list[Exception] = []

    def job(config: DictConfig) -> None:
        torch.set_num_threads(int(config.threads))
        try:
            result = importlib.import_module(f"robust_npe.commands.{command}").main(config)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                # launchers show one failure of a sweep at most: each job's log holds its own
                log.error("failed: %s", error, exc_info=not isinstance(error, USER_ERRORS))
                raise
            failures.append(error)
        else:
            sys.stdout.write(f"{getattr(result, 'text', result)}\n")

    decorate = hydra.main(
        config_path=str(config_directory()), config_name=command, version_base="1.3"
    )
    decorate(job)()
    if failures:
        raise failures[0]


def _missing_choice(error: MissingConfigException) -> str:
    """Name the choices of a group, those in subfolders included."""
    if "hydra/launcher/joblib" in str(error.missing_cfg_file):
        return "hydra/launcher=cores needs the joblib launcher: pip install '.[cores]'."
    group, _, choice = (error.missing_cfg_file or "").partition("/")
    folder = config_directory() / group
    if not choice or not folder.is_dir():
        return str(error)
    choices = sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))
    return f"{group}={choice} does not exist. Choices: {', '.join(choices)}."


def _hydra_message(error: Exception) -> str:
    """Say in one line what Hydra or OmegaConf found wrong."""
    if unknown := re.match(r"Could not override '([^']+)'", str(error)):
        return _unknown_key(unknown[1])
    cause = f" ({error.__cause__})" if error.__cause__ else ""
    return " ".join(
        re.sub(r"\s*(full_key|reference_type|object_type)[:=]\S*", "", f"{error}{cause}").split()
    )


def _unknown_key(key: str) -> str:
    """Suggest the key that is most like one that does not exist, sections included."""
    parent = key.rpartition(".")[0]
    names = _keys(TrainConfig)
    close = difflib.get_close_matches(key, names, n=1)
    if not close and parent:
        inside = [name for name in names if name.startswith(f"{parent}.")]
        close = difflib.get_close_matches(key, inside, n=1, cutoff=0.3)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"there is no key {key!r}.{hint} Add `--cfg job` to the command to see all keys."


def _keys(schema: Any, prefix: str = "") -> list[str]:
    """Names of all keys of a schema, those of sections with a dot."""
    found = []
    for field in dataclasses.fields(schema):
        found.append(prefix + field.name)
        section = field.default_factory
        if dataclasses.is_dataclass(section):
            found += _keys(section, f"{prefix}{field.name}.")
    return found
