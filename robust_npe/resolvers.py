"""What values in YAML files may depend on: the scale, and published settings of the task.

    num_simulations: "${by_scale:{smoke: 128, laptop: 20000, paper: 750000}}"
    steps: "${by_scale:{smoke: 10, other: 200}}"
    beta: ${published:fim}

The last one looks into conf/published.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from robust_npe.checks import ConfigError, require
from robust_npe.components import TARGET, find_class
from robust_npe.paths import config_directory
from robust_npe.tasks.base import Task

__all__ = ["register"]


def register() -> None:
    """Make them known to OmegaConf."""
    OmegaConf.register_new_resolver("by_scale", _by_scale, replace=True)
    OmegaConf.register_new_resolver("published", _published, replace=True)


def _by_scale(values: Mapping[str, Any], *, _root_: DictConfig) -> Any:
    """Return the value of the scale that the configuration was composed with, or that of `other`
    for all that are not named."""
    scale = _root_.get("scale")
    known = scale if scale in values else "other"
    require(known in values, "scale", scale, f"one of {', '.join(values)}")
    return values[known]


def _published(what: str, index: int | None = None, *, _root_: DictConfig) -> Any:
    """Return what conf/published.yaml says for the task, or one of several values."""
    name = find_class(_root_.task[TARGET], Task, "task").name
    known = _table().get(what, {})
    if name not in known:
        raise ConfigError(f"no {what} was published for task {name}: set it, e.g. beta=0.01.")
    return known[name] if index is None else known[name][index]


@lru_cache
def _table() -> dict[str, Any]:
    content = OmegaConf.load(config_directory() / "published.yaml")
    return dict(OmegaConf.to_container(content))  # type: ignore[arg-type]
