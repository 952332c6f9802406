"""Where the YAML groups are."""

from __future__ import annotations

from pathlib import Path

__all__ = ["config_directory"]


def config_directory() -> Path:
    """Return the folder of the YAML groups: inside the installed package, else the checkout's."""
    package = Path(__file__).resolve().parent
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parent / "conf"
