"""Values of a configuration against the annotations of constructors."""

from __future__ import annotations

import contextlib
import inspect
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal

from robust_npe.checks import ConfigError, require

__all__ = ["convert", "expected", "no_component"]

EXPECTED = {
    bool: "true or false",
    int: "an integer",
    float: "a finite number",
    str: "text",
    Path: "a path",
    NoneType: "null",
}

CheckNode = Callable[[Any, type, str], None]
"""Raises a `ConfigError` unless a value is a node that describes a component of a kind."""


def no_component(value: Any, kind: type, where: str) -> None:
    """Say that a setting has an annotation that is our mistake."""
    raise ConfigError(f"{where} cannot be set by a configuration: {kind} is no component.")


def convert(value: Any, hint: Any, where: str, check_node: CheckNode = no_component) -> Any:
    """Return a value as its annotation wants it.

    Args:
        value: Plain Python values, as from YAML.
        hint: The annotation: bool, int, float, str, Path, None, `Literal`, unions, sequences and
            mappings of these, or a class of components.
        where: Name of the setting, for messages.
        check_node: Checks a value whose annotation is a class of components.

    Raises:
        ConfigError: It is something else, or the annotation is not one that can be checked.
    """
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return _convert_union(value, options, hint, where, check_node)
    if origin in (Sequence, list, tuple):
        require(isinstance(value, list | tuple), where, value, expected(hint))
        fixed = origin is tuple and options[1:] != (...,)
        require(not fixed or len(value) == len(options), where, value, expected(hint))
        kinds = options if fixed else options[:1] * len(value)
        return [
            convert(part, kind, f"{where}[{i}]", check_node)
            for i, (part, kind) in enumerate(zip(value, kinds, strict=True))
        ]
    if origin in (Mapping, dict):
        require(isinstance(value, Mapping), where, value, expected(hint))
        return {
            str(key): convert(v, options[1], f"{where}.{key}", check_node)
            for key, v in value.items()
        }
    if origin is Literal:
        require(value in options, where, value, expected(hint))
        return value
    if inspect.isclass(hint) and hint not in EXPECTED:
        check_node(value, hint, where)
        return value
    return _convert_simple(value, hint, where)


def _convert_union(
    value: Any, options: Sequence[Any], hint: Any, where: str, check_node: CheckNode
) -> Any:
    if value is None and NoneType in options:
        return None
    options = [option for option in options if option is not NoneType]
    if len(options) == 1:  # its message says more than one about alternatives
        return convert(value, options[0], where, check_node)
    for option in options:
        with contextlib.suppress(ConfigError):
            return convert(value, option, where, check_node)
    raise ConfigError(f"{where}={value!r} is not valid: it must be {expected(hint)}.")


def _convert_simple(value: Any, hint: Any, where: str) -> Any:
    if hint not in EXPECTED:
        raise ConfigError(
            f"{where} cannot be set by a configuration: {hint} is no number, text, path, list, "
            "mapping or component."
        )
    number = isinstance(value, int | float) and not isinstance(value, bool)
    finite = number and abs(value) <= sys.float_info.max
    if hint is float and finite:
        return float(value)
    if hint is int and finite and value == int(value):
        return int(value)
    if hint is Path and isinstance(value, str | Path) and str(value):
        return Path(value).expanduser()
    require(hint in (bool, str, NoneType) and isinstance(value, hint), where, value, EXPECTED[hint])
    return value


def expected(hint: Any) -> str:
    """Say what an annotation allows."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return " or ".join(expected(option) for option in options)
    if origin is Literal:
        return f"one of {', '.join(map(str, options))}"
    if origin in (Sequence, list, tuple):
        return f"a list, each entry {expected(options[0])}"
    if origin in (Mapping, dict):
        return f"a mapping, each entry {expected(options[1])}"
    if inspect.isclass(hint) and hint not in EXPECTED:
        return f"a node with _target_, the dotted name of a {hint.__name__} class"
    return EXPECTED.get(hint, str(hint))
