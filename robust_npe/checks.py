"""Errors that a user can act on."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from numbers import Integral, Real

__all__ = [
    "ConfigError",
    "PartialResultError",
    "require",
    "require_not_negative",
    "require_positive",
    "require_positive_integer",
    "require_whole",
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


def require_positive(name: str, value: object, or_null: bool = False) -> None:
    """Raise a `ConfigError` unless the value is a positive, finite number, of Python or NumPy.

    Args:
        name: Name of the setting as the user writes it.
        value: What was received.
        or_null: Whether None is allowed, too.
    """
    fits = (or_null and value is None) or (_is_number(value) and value > 0)  # type: ignore[operator]
    require(fits, name, value, "a positive number" + (" or null" if or_null else ""))


def require_not_negative(name: str, value: object, or_null: bool = False) -> None:
    """Raise a `ConfigError` unless the value is a finite number that is not negative; arguments as
    those of `require_positive`."""
    fits = (or_null and value is None) or (_is_number(value) and value >= 0)  # type: ignore[operator]
    expected = "a number that is not negative" + (", or null" if or_null else "")
    require(fits, name, value, expected)


def require_whole(name: str, value: object) -> None:
    """Raise a `ConfigError` unless the value is an integer that is not negative."""
    require(_is_integer(value, 0), name, value, "a whole number that is not negative")


def require_positive_integer(name: str, value: object, or_null: bool = False) -> None:
    """Raise a `ConfigError` unless the value is a positive integer, of Python or NumPy.

    Args:
        name: Name of the setting as the user writes it.
        value: What was received.
        or_null: Whether None is allowed, too.
    """
    if or_null and value is None:
        return
    require(
        _is_integer(value, 1), name, value, "a positive integer" + (" or null" if or_null else "")
    )


def require_widths(name: str, value: object, least: int = 0) -> None:
    """Raise a `ConfigError` unless the value is a list of positive integers, such as widths of
    layers, with at least so many of them."""
    widths = list(value) if isinstance(value, Sequence) else [None]
    expected = "a list of positive integers" + (f", at least {least}" if least else "")
    require(
        len(widths) >= least and all(_is_integer(width, 1) for width in widths),
        name,
        value,
        expected,
    )


def _is_integer(value: object, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
