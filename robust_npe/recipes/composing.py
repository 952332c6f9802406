"""Configurations as the command line would make them, without starting it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from robust_npe.checks import ConfigError
from robust_npe.config import prepare_hydra
from robust_npe.messages import hydra_message
from robust_npe.paths import config_directory

__all__ = ["composed", "sweep"]


@contextmanager
def _hydra() -> Iterator[None]:
    prepare_hydra()
    try:
        with initialize_config_dir(str(config_directory()), version_base="1.3"):
            yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(hydra_message(error)) from error


def composed(overrides: Sequence[str]) -> DictConfig:
    """Return the configuration of `robust-npe train <overrides>`.

    Raises:
        ConfigError: Hydra cannot compose it.
    """
    with _hydra():
        return compose("train", overrides=list(overrides))


def sweep(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the overrides of each job of `robust-npe train -m <overrides>`, in Hydra's order.

    Raises:
        ConfigError: Hydra cannot compose it.
    """
    with _hydra():
        parser = OverridesParser.create()
        given = parser.parse_overrides(list(overrides))
        fixed = [o.input_line for o in given if not o.is_sweep_override()]
        config = compose("train", overrides=fixed, return_hydra_config=True)  # type: ignore[arg-type]
        params = config.hydra.sweeper.params or {}
        swept = parser.parse_overrides([f"{key}={values}" for key, values in params.items()])
        (jobs,) = BasicSweeper.split_arguments([*swept, *given], max_batch_size=None)
    return [tuple(job) for job in jobs]
