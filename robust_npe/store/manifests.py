"""Manifests: what is known about a finished artefact, and the checksums of its files."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

from robust_npe.files import StoreError, naming, open_plain, read_plain, write_atomically

__all__ = [
    "MANIFEST",
    "PARTS",
    "CorruptArtefactError",
    "checksum",
    "read_manifest",
    "write_manifest",
]

MANIFEST = "manifest.json"
PARTS = "parts"  # folder that an unfinished artefact may have, see `robust_npe.store.parts`
OWN = "manifest_sha256"  # of all else in the manifest
MAX_BYTES = 2**24
PACKAGES = ("robust-npe", "torch", "numpy", "numba", "nflows", "sbibm")
REMEDY = "Repeat the command that made it: the damaged one is set aside."
TYPES = {"description": dict, "facts": dict, "created": str, "sha256": dict}

_checksums: dict[tuple[int, ...], str] = {}


class CorruptArtefactError(StoreError):
    """A stored artefact is incomplete, or was changed or damaged after it had been stored."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of an artefact.

    Raises:
        CorruptArtefactError: There is none, or it is damaged.
        StoreError: It is not a plain file, or larger than a manifest can be.
    """
    path = folder / MANIFEST
    with naming(path, "read"):
        missing = not path.exists() and not path.is_symlink()
    if missing:
        raise CorruptArtefactError(f"{folder} has no {MANIFEST}. {REMEDY}")
    try:
        manifest = json.loads(read_plain(path, "manifest", MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise CorruptArtefactError(f"{path} is not valid JSON ({error}). {REMEDY}") from error
    if not isinstance(manifest, dict):
        manifest = {}
    wrong = [key for key, kind in TYPES.items() if not isinstance(manifest.get(key), kind)]
    if wrong:
        raise CorruptArtefactError(f"{path} lacks {', '.join(wrong)}. {REMEDY}")
    if manifest.pop(OWN, None) not in (None, _own_checksum(manifest)):  # older ones have none
        raise CorruptArtefactError(f"{path} does not match its checksum: it was changed. {REMEDY}")
    for name in map(PurePosixPath, manifest["sha256"]):
        if name.is_absolute() or ".." in name.parts:
            raise StoreError(f"{path} names {name}, which lies outside of its folder: remove it.")
    return manifest


def write_manifest(
    folder: Path,
    kind: str,
    key: str,
    description: Mapping[str, Any],
    facts: Mapping[str, Any],
    seconds: float,
) -> None:
    """Write the manifest of all files in a folder, except those in its subfolder `PARTS`."""
    files = [p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file()]
    manifest = {
        "kind": kind,
        "key": key,
        "description": dict(description),
        "facts": dict(facts),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "host": platform.node(),
        "git_revision": _git_revision(),
        "versions": {"python": platform.python_version(), **_package_versions()},
        "sha256": {
            p.as_posix(): checksum(folder / p) for p in files if p.parts[0] not in (MANIFEST, PARTS)
        },
    }
    manifest = json.loads(json.dumps(manifest))  # as it will be read
    manifest[OWN] = _own_checksum(manifest)
    write_atomically(folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())


def _own_checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def checksum(path: Path) -> str:
    """Return the SHA-256 of a plain file, read once per process unless it changes."""
    with open_plain(path, "stored file") as file:
        s = os.fstat(file.fileno())
        identity = (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
        if identity not in _checksums:
            _checksums[identity] = hashlib.file_digest(file, "sha256").hexdigest()
    return _checksums[identity]


@cache
def _package_versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def _git_revision() -> str | None:
    """Revision of the source tree that this package runs from, None for installed wheels."""
    source = Path(__file__).resolve().parents[2]
    if not (source / ".git").exists():
        return None
    command = ["git", "-C", str(source), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
