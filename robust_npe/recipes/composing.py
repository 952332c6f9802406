"""Configurations as the command line would make them, without starting it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from robust_npe.checks import ConfigError
from robust_npe.config import prepare_hydra
from robust_npe.messages import hydra_message
from robust_npe.paths import config_directory

__all__ = ["composed", "sweep", "swept"]


def composed(overrides: Sequence[str]) -> DictConfig:
    """Return the configuration of `robust-npe train <overrides>`.

    Raises:
        ConfigError: Hydra cannot compose it.
    """
    with _errors():
        config = _load(overrides, RunMode.RUN)
        with open_dict(config):
            del config["hydra"]
    return config


def sweep(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the overrides of each job of `robust-npe train -m <overrides>`, in Hydra's order.

    Raises:
        ConfigError: Hydra cannot compose it.
    """
    params = [f"{key}={values}" for key, values in swept(overrides).items()]
    with _errors():
        parsed = OverridesParser.create().parse_overrides([*params, *overrides])
        (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return [tuple(job) for job in jobs]


def swept(overrides: Sequence[str]) -> dict[str, str]:
    """Return what the configuration of `robust-npe train -m <overrides>` varies by itself.

    Raises:
        ConfigError: Hydra cannot compose it.
    """
    with _errors():
        return dict(_load(overrides, RunMode.MULTIRUN).hydra.sweeper.params or {})


def _load(overrides: Sequence[str], mode: RunMode) -> DictConfig:
    return _loader().load_configuration("train", list(overrides), mode, from_shell=False)


@lru_cache(maxsize=1)
def _loader() -> ConfigLoaderImpl:
    """Return what Hydra's `compose` makes anew for each configuration; with it, and files that are
    read once, hundreds of them take half the time."""
    prepare_hydra()
    version.setbase("1.3")
    loader = ConfigLoaderImpl(create_config_search_path(str(config_directory())))
    for source in loader.repository.sources:
        vars(source)["load_config"] = _once(source.load_config)
    return loader


def _once(read: Callable[[str], Any]) -> Callable[[str], Any]:
    known = lru_cache(maxsize=None)(read)

    def load_config(config_path: str) -> Any:
        return copy.deepcopy(known(config_path))  # who asked will change it

    return load_config


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(hydra_message(error)) from error
