"""Content-addressed artefacts on disk: made once, whole or not at all, safe to share."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

__all__ = ["Artefact", "CorruptArtefactError", "Store", "content_key"]

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
PACKAGES = ("robust-npe", "torch", "numpy", "numba", "nflows", "sbibm")


class CorruptArtefactError(RuntimeError):
    """A stored file does not match its checksum."""


def content_key(description: Mapping[str, Any]) -> str:
    """Return the key of an artefact: a hash of everything that determines its content."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Artefact:
    """A finished folder in the store.

    Attributes:
        path: The folder.
        key: Hash of its description.
        created: Whether this call made it (as against found it).
    """

    path: Path
    key: str
    created: bool

    @property
    def manifest(self) -> dict[str, Any]:
        """What was stored about it: configuration, versions, seconds, checksums, ..."""
        return json.loads((self.path / MANIFEST).read_text())

    def verify(self) -> Artefact:
        """Compare all files with their checksums.

        Raises:
            CorruptArtefactError: A file was changed after it had been stored.
        """
        for name, expected in self.manifest["sha256"].items():
            if _checksum(self.path / name) != expected:
                raise CorruptArtefactError(
                    f"{self.path / name} does not match its checksum: it was changed or damaged "
                    f"after it had been stored. Delete {self.path} and run again."
                )
        return self


class Store:
    """A folder of artefacts, `<root>/<kind>/<key>/`.

    An artefact is built in `<key>.partial` under a lock and renamed when it is complete, so other
    processes see all of it or nothing, and no two of them build the same thing. What an
    interrupted build left behind stays, for makers that can resume.

    Args:
        root: The folder; created when something is stored.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def find(self, kind: str, key: str) -> Artefact | None:
        """Return the finished artefact of this key, or None."""
        path = self.root / kind / key
        return Artefact(path, key, created=False) if (path / MANIFEST).is_file() else None

    def get(
        self,
        kind: str,
        description: Mapping[str, Any],
        make: Callable[[Path], Mapping[str, Any] | None],
        resumable: bool = False,
    ) -> Artefact:
        """Return the artefact of this description, making it if it does not exist.

        Args:
            kind: Name of the collection, e.g. `simulations`.
            description: Everything that determines the content; plain JSON values.
            make: Writes the files into the folder it is given; what it returns goes into the
                manifest under `facts`.
            resumable: Hand the maker the files of an interrupted build instead of an empty folder.
        """
        key = content_key(description)
        final = self.root / kind / key
        if found := self.find(kind, key):
            return found
        final.parent.mkdir(parents=True, exist_ok=True)
        with _locked(final.with_suffix(".lock"), what=f"{kind} {key}"):
            if found := self.find(kind, key):
                return found
            partial = final.with_suffix(".partial")
            if partial.exists() and not resumable:
                shutil.rmtree(partial)
            partial.mkdir(exist_ok=True)
            started = time.perf_counter()
            facts = make(partial) or {}
            _write_manifest(partial, kind, key, description, facts, time.perf_counter() - started)
            partial.replace(final)
        return Artefact(final, key, created=True)


def _locked(path: Path, what: str) -> FileLock:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0.1)
        lock.release()
    except Timeout:
        log.info("waiting for another process that is making %s", what)
    return lock


def _write_manifest(
    folder: Path,
    kind: str,
    key: str,
    description: Mapping[str, Any],
    facts: Mapping[str, Any],
    seconds: float,
) -> None:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
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
        "sha256": {str(p.relative_to(folder)): _checksum(p) for p in files},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
