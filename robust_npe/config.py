"""Configuration: the schema of the top level, and building objects from `_target_` nodes."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from robust_npe.checks import ConfigError, require
from robust_npe.reference import ReferenceSettings
from robust_npe.training import TrainingSettings

__all__ = [
    "AttackConfig",
    "Evaluation",
    "ReferenceConfig",
    "TrainConfig",
    "build",
    "choice",
    "config_directory",
    "epsilons",
    "plain",
    "register_schemas",
]

ALLOWED_TARGETS = ("robust_npe.", "torch.")


@dataclass
class Evaluation:
    """How much is measured; what is measured stands in `metrics`.

    Attributes:
        num_test: Pairs in the test set.
        num_attacked: How many of them are attacked, from the first.
        batch_size: Observations that are processed at once.
    """

    num_test: int = 2000
    num_attacked: int = 512
    batch_size: int = 512

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("num_test", "num_attacked", "batch_size"):
            value = getattr(self, name)
            require(value > 0, f"evaluation.{name}", value, "a positive integer")
        require(
            self.num_attacked <= self.num_test,
            "evaluation.num_attacked",
            self.num_attacked,
            f"at most evaluation.num_test={self.num_test}",
        )


@dataclass
class EvaluationOverrides:
    """As `Evaluation`; what is null is as in the earlier run."""

    num_test: int | None = None
    num_attacked: int | None = None
    batch_size: int | None = None


@dataclass
class ThreatConfig:
    """Keys that say what the adversary may do; see `robust_npe.attacks.ThreatModel`."""

    epsilon: Any = MISSING
    epsilon_unit: str = "std"
    norm: str = "l2"
    domain: str = "data"


@dataclass
class CommonConfig:
    """Keys that every command has."""

    output_dir: str = "outputs"
    device: str = "cpu"
    threads: int = 1


@dataclass
class TrainConfig(CommonConfig, ThreatConfig):
    """Keys of `robust-npe train`. Groups are free-form here and checked by their constructors."""

    task: Any = MISSING
    estimator: Any = MISSING
    embedding: Any = None
    defense: Any = MISSING
    attack: Any = MISSING
    objective: Any = MISSING
    metrics: Any = MISSING
    training: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: Evaluation = field(default_factory=Evaluation)
    seed: int = 0
    num_simulations: int = MISSING
    num_validation: int = 512
    beta: float | None = None
    plots: bool = True


@dataclass
class AttackConfig(CommonConfig, ThreatConfig):
    """Keys of `robust-npe attack`."""

    run: str = MISSING
    attack: Any = MISSING
    objective: Any = MISSING
    metrics: Any = MISSING
    evaluation: EvaluationOverrides = field(default_factory=EvaluationOverrides)
    plots: bool = True


@dataclass
class SimulateConfig(CommonConfig):
    """Keys of `robust-npe simulate`."""

    task: Any = MISSING
    num_simulations: int = MISSING
    seed: int = 0
    split: str = "train"
    shard: str | None = None


@dataclass
class ReferenceConfig(TrainConfig):
    """Keys of `robust-npe reference`: those of `train`, and what to compute."""

    source: str = "test"
    observations: int = 10
    proposal: str = "estimator"
    c2st: bool = False
    reference: ReferenceSettings = field(default_factory=ReferenceSettings)


@dataclass
class CollectConfig(CommonConfig):
    """Keys of `robust-npe collect`."""

    table: str = "results"
    to: str | None = None


SCHEMAS: dict[str, type] = {
    "train_schema": TrainConfig,
    "attack_schema": AttackConfig,
    "simulate_schema": SimulateConfig,
    "collect_schema": CollectConfig,
    "reference_schema": ReferenceConfig,
}


def register_schemas() -> None:
    """Make the schemas known to Hydra."""
    store = ConfigStore.instance()
    for name, node in SCHEMAS.items():
        store.store(name=name, node=node)


def config_directory() -> Path:
    """Return the folder of the YAML groups: inside the installed package, else the checkout's."""
    package = Path(__file__).resolve().parent
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"


def choice(group: str, name: str) -> dict[str, Any]:
    """Return what `group=name` stands for."""
    return dict(plain(OmegaConf.load(config_directory() / group / f"{name}.yaml")))


def plain(config: Any) -> Any:
    """Return a config as resolved plain Python containers."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def epsilons(value: Any) -> list[float]:
    """Return the radii as a list; `epsilon` is a number or a list of numbers."""
    values = plain(value)
    values = list(values) if isinstance(values, list | tuple) else [values]
    require(len(values) > 0, "epsilon", values, "a number or a list of numbers")
    for v in values:
        number = isinstance(v, int | float) and not isinstance(v, bool)
        require(
            number and math.isfinite(v) and v >= 0,
            "epsilon",
            v,
            "a number (or a list of numbers) that is not negative",
        )
    require(len(set(values)) == len(values), "epsilon", values, "free of repetitions")
    return [float(v) for v in values]


def build(config: DictConfig | dict[str, Any], name: str, **extra: Any) -> Any:
    """Build the object that a config node describes.

    The node holds `_target_` (inside of robust_npe or torch, nothing else is ever imported) and
    the constructor's arguments; with `_partial_: true` the constructor is returned with these
    arguments bound. Types are checked against the constructor's annotations.

    Args:
        config: The node.
        name: The group's name, for error messages.
        extra: Arguments that come from the program, not from the node.

    Raises:
        ConfigError: Unknown target or argument, wrong type or value.
    """
    arguments = dict(plain(config))
    target = arguments.pop("_target_", None)
    bind_only = arguments.pop("_partial_", False)
    function = _locate(target, name)
    arguments = _checked(function, arguments, name, given=list(extra))
    for key, value in arguments.items():
        if isinstance(value, dict) and "_target_" in value:
            arguments[key] = build(value, f"{name}.{key}")
    if bind_only:
        return partial(function, **arguments, **extra)
    return function(**arguments, **extra)


def _locate(target: Any, name: str) -> Callable[..., Any]:
    valid = isinstance(target, str) and target.startswith(ALLOWED_TARGETS)
    require(valid, f"{name}._target_", target, "the dotted name of a class in robust_npe or torch")
    module, _, attribute = str(target).rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{name}._target_={target!r} cannot be imported: {error}") from error


def _checked(
    function: Callable[..., Any], arguments: dict[str, Any], name: str, given: Sequence[str]
) -> dict[str, Any]:
    """Check names and types of arguments against the signature."""
    signature = inspect.signature(function)
    hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    allowed = [p for p in signature.parameters if p not in given]
    for key in arguments:
        if key not in allowed:
            raise ConfigError(f"{name} has no key {key!r}; its keys are {', '.join(allowed)}.")
    fields = [(key, _schema_type(hints.get(key, Any))) for key in arguments]
    schema = OmegaConf.structured(dataclasses.make_dataclass(name.replace(".", "_"), fields))
    try:
        checked = OmegaConf.merge(schema, arguments)
    except OmegaConfBaseException as error:
        where = f"{name}.{error.full_key}" if error.full_key else name
        raise ConfigError(f"{where}: {str(error).splitlines()[0]}.") from error
    return {str(key): plain(value) for key, value in checked.items()}


def _schema_type(hint: Any) -> Any:
    """Return the annotation where OmegaConf can check it, else Any."""
    simple = (int, float, bool, str)
    options = typing.get_args(hint) or (hint,)
    if typing.get_origin(hint) in (Sequence, list, tuple):
        return list[options[0]] if options[0] in simple else Any  # type: ignore[valid-type]
    if all(option in simple or option is type(None) for option in options):
        return hint
    return Any
