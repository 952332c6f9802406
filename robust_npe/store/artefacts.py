"""Content-addressed artefacts on disk: made once, whole or not at all, safe to share."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from robust_npe.checks import ConfigError
from robust_npe.files import TEMPORARY, StoreError, naming, refuse_links
from robust_npe.store.locks import LOCKS, lock_name, locked
from robust_npe.store.manifests import (
    MANIFEST,
    PARTS,
    REMEDY,
    CorruptArtefactError,
    checksum,
    read_manifest,
    write_manifest,
)

__all__ = ["Artefact", "Store", "content_key", "finished"]

log = logging.getLogger(__name__)


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
        return read_manifest(self.path)

    def verify(self, *required: str) -> Artefact:
        """Compare all files with their checksums; a file is read once per process.

        Args:
            required: Names of files that there must be.

        Raises:
            CorruptArtefactError: Something is missing, or was changed after it had been stored.
            StoreError: There are links in the folder, or it cannot be read.
        """
        refuse_links(self.path)
        checksums = self.manifest["sha256"]
        for name in dict.fromkeys([*required, *checksums]):
            path = self.path / name
            if not path.is_file() or checksum(path) != checksums.get(name):
                raise CorruptArtefactError(
                    f"{path} does not match its checksum: it was changed, damaged or removed "
                    f"after it had been stored. {REMEDY}"
                )
        return self


def finished(folder: Path) -> list[Artefact]:
    """Return the artefacts in a collection such as `runs`, unverified.

    What is being made or was set aside has a suffix, and is left out.
    """
    paths = sorted(p.parent for p in folder.glob(f"*/{MANIFEST}"))
    return [Artefact(p, p.name, created=False) for p in paths if "." not in p.name]


class Store:
    """A folder of artefacts, `<root>/<kind>/<key>/`.

    An artefact is built in `<key>.partial` under a lock and renamed when it is complete, so other
    processes see all of it or nothing, and no two of them build the same thing. A damaged one is
    set aside as `<key>.damaged-<n>` and built again. The root may be a symbolic link; nothing below
    it may.

    Args:
        root: The folder; created when something is stored.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def find(self, kind: str, key: str) -> Artefact | None:
        """Return the finished and undamaged artefact of this key, or None.

        Raises:
            StoreError: Symbolic links or the like were planted.
        """
        return self._find(kind, key, set_aside=False)

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
                manifest under `facts`. Its subfolder `PARTS` does not become part of the artefact.
            resumable: Hand the maker the files of an interrupted build instead of an empty folder.

        Raises:
            StoreError: The store cannot be read or written.
        """
        key = content_key(description)
        if found := self._find(kind, key, set_aside=False):
            return found
        with self._locked(kind, key) as check_lock:
            if found := self._find(kind, key, set_aside=True):
                return found
            final, partial = self._path(kind, key), self._path(kind, f"{key}.partial")
            if not _is_complete(partial):
                _prepare(partial, resumable)
                try:
                    started = time.perf_counter()
                    facts = make(partial) or {}
                    seconds = time.perf_counter() - started
                    write_manifest(partial, kind, key, description, facts, seconds)
                except BaseException as error:
                    # wrong settings stay wrong: what was made with them is of no use
                    wrong = isinstance(error, ConfigError | FloatingPointError)
                    _clear_up(partial, resumable and not wrong)
                    raise
            check_lock()
            _publish(partial, final)
        return Artefact(final, key, created=True)

    def _path(self, *names: str) -> Path:
        """Return a path below the root, refusing links on the way to it."""
        path = self.root
        for name in names:
            path = path / name
            with naming(path, "read"):
                linked = path.is_symlink()
            if linked:
                raise StoreError(
                    f"{path} is a symbolic link, which a store does not follow: remove it."
                )
        return path

    def _find(self, kind: str, key: str, set_aside: bool) -> Artefact | None:
        path = self._path(kind, key)
        with naming(path, "read"):
            if not path.exists():
                return None
        try:
            return Artefact(path, key, created=False).verify()
        except CorruptArtefactError as error:
            if set_aside:
                names = (f"{key}.damaged-{n}" for n in count(1))
                aside = next(p for name in names if not (p := path.with_name(name)).exists())
                log.warning("set aside as %s, to be made again: %s", aside.name, error)
                with naming(path, "set aside"):
                    path.rename(aside)
            return None

    def _locked(self, kind: str, key: str) -> AbstractContextManager[Callable[[], None]]:
        def waiting() -> None:
            log.info("waiting for another process that is making %s %s", kind, key)

        path = self._path(LOCKS, lock_name(kind, key))
        self._path(LOCKS, path.with_suffix(".lease").name)
        return locked(path, waiting)


def _is_complete(partial: Path) -> bool:
    """Tell whether a build was interrupted after its manifest had been written."""
    if not (partial / MANIFEST).exists():
        return False
    try:
        Artefact(partial, partial.stem, created=False).verify()
    except CorruptArtefactError:
        return False
    return True


def _prepare(partial: Path, resumable: bool) -> None:
    """Make the folder of a build, free of what cannot be used."""
    refuse_links(partial)
    with naming(partial, "written"):
        if partial.exists() and not resumable:
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        for path in (partial / MANIFEST, *partial.rglob(f".*{TEMPORARY}")):
            path.unlink(missing_ok=True)


def _publish(partial: Path, final: Path) -> None:
    """Turn a complete build into the artefact; may be interrupted and repeated."""
    with naming(final, "written"):
        if (partial / PARTS).exists():
            shutil.rmtree(partial / PARTS)
        partial.replace(final)


def _clear_up(partial: Path, resumable: bool) -> None:
    """Remove what a failed build left, unless the next one can use it."""
    if not (resumable and any(p.is_file() for p in partial.rglob("*"))):
        shutil.rmtree(partial, ignore_errors=True)
