"""Configuration: the schema of the top level, and where the YAML groups are read from."""

from __future__ import annotations

import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import MISSING, DictConfig, OmegaConf

from robust_npe import resolvers
from robust_npe.annotations import convert
from robust_npe.checks import ConfigError, require
from robust_npe.components import TARGET, complete
from robust_npe.paths import config_directory
from robust_npe.schemas import (
    MAX_COUNT,
    SCHEMAS,
    AttackConfig,
    AuditConfig,
    CollectConfig,
    CompareConfig,
    Evaluation,
    ListConfig,
    ParetoConfig,
    PruneConfig,
    ReferenceConfig,
    Seeds,
    SimulateConfig,
    TrainConfig,
)

__all__ = [
    "MAX_COUNT",
    "AttackConfig",
    "AuditConfig",
    "CollectConfig",
    "CompareConfig",
    "Evaluation",
    "ListConfig",
    "ParetoConfig",
    "PruneConfig",
    "ReferenceConfig",
    "Seeds",
    "SimulateConfig",
    "TrainConfig",
    "checked",
    "choice",
    "epsilons",
    "plain",
    "prepare_hydra",
]


resolvers.register()  # here, since every process that reads a configuration imports this


class CompleteSource(FileConfigSource):
    """YAML files whose nodes get the defaults of the constructors they name.

    So every setting can be seen (`--help`, `--cfg job`), overridden, and is stored with a run.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file as Hydra does, and fill in what it leaves out."""
        result = super().load_config(config_path)
        content = OmegaConf.to_container(result.config, resolve=False)
        result.config = OmegaConf.create(complete(content))
        return result


# the name under which Hydra knows the source of files, and compares when it starts in a process
CompleteSource.__name__ = FileConfigSource.__name__


def prepare_hydra() -> None:
    """Make the schemas known to Hydra, and the way YAML files are read."""
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        store.store(name=name, node=_untyped(schema))
    Plugins.instance()  # registers Hydra's own source of files, which is replaced then
    SourcesRegistry.instance().types[CompleteSource.scheme()] = CompleteSource


def _untyped(schema: Any) -> Any:
    """Return keys and defaults of a schema without its types: `checked` says more about them."""
    return OmegaConf.to_container(OmegaConf.structured(schema))


def checked(config: DictConfig | Mapping[str, Any], schema: type) -> dict[str, Any]:
    """Return the values of a configuration, resolved and of the types that the schema asks for.

    Args:
        config: The configuration; keys that it lacks have the schema's defaults.
        schema: A dataclass; its fields are annotated as `robust_npe.annotations` wants it, or
            dataclasses, or `Any`.

    Raises:
        ConfigError: A key is not set or unknown, or a value is of another type.
    """
    return dict(_section(plain(_with_plain_bases(config)), schema, ""))


def _with_plain_bases(config: Any) -> Any:
    """Return a configuration in which the base of a post-hoc defense is a node.

    `defense@defense.base=fim` puts all that conf/defense/fim.yaml sets at the top level below
    `defense.base`: from there, its beta goes to the top, unless one is set, and its defense up.
    """
    if not OmegaConf.is_config(config):
        return config
    config = config.copy()
    node = config.get("defense")
    while OmegaConf.is_dict(node) and OmegaConf.is_dict(base := node.get("base")):
        if TARGET not in base and "defense" in base:
            config.beta = base.get("beta") if config.beta is None else config.beta
            node.base = base.defense
        node = node.base
    return config


def _section(values: Any, schema: Any, where: str) -> Any:
    if schema in (str, str | None) and type(values) is int:  # YAML takes text of digits for that
        return str(values)
    if not is_dataclass(schema):
        return values if schema is Any else convert(values, schema, where)
    require(isinstance(values, Mapping), where, values, "a section of keys")
    hints = typing.get_type_hints(schema)
    names = [f.name for f in fields(schema)]
    prefix = f"{where}." if where else ""
    complete_values = {**_untyped(schema), **values}
    for key, value in complete_values.items():
        if key not in names:
            raise ConfigError(f"there is no key {prefix}{key}; keys are {', '.join(names)}.")
        if value == MISSING:
            raise ConfigError(f"{prefix}{key} is not set.")
    return {name: _section(complete_values[name], hints[name], prefix + name) for name in names}


def choice(group: str, name: str) -> dict[str, Any]:
    """Return what `group=name` stands for, with the defaults of its constructor."""
    return dict(complete(plain(OmegaConf.load(config_directory() / group / f"{name}.yaml"))))


def plain(config: Any) -> Any:
    """Return a config as resolved plain Python containers."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def epsilons(value: Any, automatic: Sequence[float] = ()) -> list[float]:
    """Return the radii as a list; `epsilon` is a number or a list of numbers, or null for those
    that are `automatic`."""
    values = list(automatic) if value is None and automatic else plain(value)
    values = list(values) if isinstance(values, list | tuple) else [values]
    require(len(values) > 0, "epsilon", values, "a number or a list of numbers")
    expected = "a number (or a list of numbers) that is not negative"
    if value is None:
        expected += ", or null with epsilon_unit=auto"
    for v in values:
        number = isinstance(v, int | float) and not isinstance(v, bool)
        require(
            number and 0 <= v <= sys.float_info.max,
            "epsilon",
            v,
            expected,
        )
    require(len(set(values)) == len(values), "epsilon", values, "free of repetitions")
    return [float(v) for v in values]
