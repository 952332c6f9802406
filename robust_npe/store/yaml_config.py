"""Stored configurations, which may be somebody else's: plain values only, of bounded size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from robust_npe.files import StoreError, read_plain

__all__ = ["read_yaml_config"]

MAX_BYTES = 2**20
MAX_NODES = 10_000
MAX_DEPTH = 20
MAX_LENGTH = 10_000  # characters of one value
OPENING = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
CLOSING = (yaml.MappingEndEvent, yaml.SequenceEndEvent)
NO_MAPPING = (yaml.StreamEndEvent, yaml.ScalarEvent, yaml.SequenceStartEvent)


def read_yaml_config(path: Path) -> dict[str, Any]:
    """Read the configuration of a stored run, with OmegaConf's conventions (1e-3 is a number).

    What a configuration that robust-npe wrote never has is refused: interpolations, which could
    read the environment; anchors, aliases and tags, with which few bytes stand for many objects;
    deep nesting.

    Args:
        path: A YAML file of at most 1 MB that holds one mapping.

    Raises:
        StoreError: It is something else.
    """
    try:
        text = read_plain(path, "configuration", MAX_BYTES).decode()
        _check(text)
        config = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except yaml.YAMLError as error:
        raise _refusal(path, f"it is not valid YAML ({' '.join(str(error).split())})") from error
    except (ValueError, OmegaConfBaseException) as error:
        raise _refusal(path, str(error)) from error
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def _refusal(path: Path, why: str) -> StoreError:
    return StoreError(f"{path} is not the configuration of a stored run: {why}.")


def _check(text: str) -> None:
    """Look at the elements of a YAML text without building anything from them.

    Raises:
        ValueError: There is something that a stored configuration does not have.
    """
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        if number <= 2 and isinstance(event, NO_MAPPING):
            raise ValueError("its top level is not a mapping")
        depth += isinstance(event, OPENING) - isinstance(event, CLOSING)
        if depth > MAX_DEPTH or number > MAX_NODES:
            raise ValueError(f"it has more than {MAX_NODES} elements, or levels above {MAX_DEPTH}")
        if getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise ValueError("it has anchors, aliases or tags")
        value = getattr(event, "value", "")
        if "${" in value:
            raise ValueError(f"it has an interpolation ({value[:40]!r}); write out its value")
        if len(value) > MAX_LENGTH:
            raise ValueError(f"it has a value of more than {MAX_LENGTH} characters")
