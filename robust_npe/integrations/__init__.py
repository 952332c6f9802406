"""Defended training inside the loops of other libraries."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["sbi"]


def __getattr__(name: str) -> Any:
    if name not in __all__:  # each is imported when it is first used: its library may be missing
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
