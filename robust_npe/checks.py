"""Errors that a user can act on."""

from __future__ import annotations

__all__ = ["ConfigError", "PartialResultError", "require"]


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
