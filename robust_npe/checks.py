"""Errors that a user can act on."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

__all__ = [
    "ConfigError",
    "PartialResultError",
    "require",
    "require_positive_integer",
    "require_widths",
]


class ConfigError(ValueError):
    """A setting is wrong; the message names it, its value, and what was expected."""


class PartialResultError(RuntimeError):
    """A command did its work except for a part of it, which the message names."""


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Raise a `ConfigError` unless the condition holds.

    Args:
        condition: What must be true of the value.
        name: Name of the setting as the user writes it, e.g. `beta`.
        value: What was received.
        expected: What is allowed, completing "must be ...".
    """
    if not condition:
        raise ConfigError(f"{name}={value!r} is not valid: it must be {expected}.")


def require_positive_integer(name: str, value: object, or_null: bool = False) -> None:
    """Raise a `ConfigError` unless the value is a positive integer, of Python or NumPy.

    Args:
        name: Name of the setting as the user writes it.
        value: What was received.
        or_null: Whether None is allowed, too.
    """
    if or_null and value is None:
        return
    require(_is_count(value), name, value, "a positive integer" + (" or null" if or_null else ""))


def require_widths(name: str, value: object, least: int = 0) -> None:
    """Raise a `ConfigError` unless the value is a list of positive integers, such as widths of
    layers, with at least so many of them."""
    widths = list(value) if isinstance(value, Sequence) else [None]
    expected = "a list of positive integers" + (f", at least {least}" if least else "")
    require(len(widths) >= least and all(map(_is_count, widths)), name, value, expected)


def _is_count(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0
