"""What a store holds: what each artefact is, how large and old it is, which runs use it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robust_npe.files import StoreError, naming
from robust_npe.store.collecting import class_versions, outdated_classes
from robust_npe.store.locks import LOCKS, InUseError, lock_name, locked
from robust_npe.store.manifests import read_manifest

__all__ = ["COLLECTIONS", "Entry", "in_progress", "inventory", "remove"]

COLLECTIONS = ("runs", "audits")  # these lie beside the store
UNRELATED = ("class", "version", "versions", "epsilon")  # say nothing on who uses an artefact


@dataclass(frozen=True)
class Entry:
    """One folder of a store.

    Attributes:
        path: The folder.
        kind: Its collection, e.g. `estimators`.
        key: Hash of its description, see `Artefact`.
        state: `finished`, `unfinished`, `damaged` or `unreadable`.
        size: Bytes of its files.
        modified: When something in it was last written, seconds since 1970.
        description: Everything that determines it; empty where it is not finished.
        used_by: Keys of the runs that use it, as far as descriptions tell: rather one too many.
        older: Whether a class that made it has a newer version among all that is stored.
    """

    path: Path
    kind: str
    key: str
    state: str
    size: int
    modified: float
    description: Mapping[str, Any] = field(default_factory=dict)
    used_by: Sequence[str] = ()
    older: bool = False

    def name_of(self, part: str) -> str:
        """Return the class of its `task`, `estimator` or `defense`, nothing if it has none; of a
        classifier with that of its inference, which says most about it."""
        node = self.description.get(part)
        if not isinstance(node, Mapping):
            return ""
        name, inner = str(node.get("class", "")), (node.get("arguments") or {}).get("inference")
        return f"{name}({inner['class']})" if isinstance(inner, Mapping) else name


def inventory(output: Path) -> list[Entry]:
    """Return all artefacts below a folder of outputs, by kind and key; checksums are not compared.

    Args:
        output: Holds `runs`, `audits` and `store`.
    """
    folders = [output / name for name in COLLECTIONS]
    with naming(output / "store", "read"):
        kinds = sorted((output / "store").iterdir()) if (output / "store").is_dir() else []
    folders += [p for p in kinds if p.name != LOCKS and p.is_dir() and not p.is_symlink()]
    read = [_read(path) for folder in folders for path in _folders(folder)]
    uses = {
        path.name: manifest
        for path, state, manifest in read
        if path.parent.name == "runs" and state == "finished"
    }
    older = outdated_classes({p: class_versions(m["description"]) for p, _, m in read if m})
    return [
        _entry(path, state, manifest, uses, bool(older.get(path))) for path, state, manifest in read
    ]


def in_progress(output: Path) -> list[str]:
    """Return the keys of the runs below a folder of outputs that a process is making."""
    found = []
    for path in _folders(output / "runs"):
        key, _, suffix = path.name.partition(".")
        try:
            if suffix == "partial":
                with locked(output / LOCKS / lock_name("runs", key)):
                    pass
        except InUseError:
            found.append(key)
    return found


def _folders(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink())


def _read(path: Path) -> tuple[Path, str, dict[str, Any]]:
    """Return path, state and manifest."""
    suffix = path.name.partition(".")[2]
    if suffix:
        return path, "unfinished" if suffix == "partial" else "damaged", {}
    try:
        return path, "finished", read_manifest(path)
    except StoreError:
        return path, "unreadable", {}


def _entry(
    path: Path,
    state: str,
    manifest: Mapping[str, Any],
    runs: Mapping[str, Mapping[str, Any]],
    older: bool,
) -> Entry:
    sizes, times = [0], [0.0]
    for file in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):  # what is being made changes while we look
            stat = file.lstat()
            sizes.append(stat.st_size if file.is_file() else 0)
            times.append(stat.st_mtime)
    kind, key = path.parent.name, path.name.partition(".")[0]
    description = manifest.get("description", {})
    used_by = [
        run for run, other in runs.items() if description and _uses(other, kind, key, description)
    ]
    return Entry(path, kind, key, state, sum(sizes), max(times), description, used_by, older)


def _uses(run: Mapping[str, Any], kind: str, key: str, description: Mapping[str, Any]) -> bool:
    """Tell whether a run uses an artefact, or may use it."""
    if kind in COLLECTIONS:
        return False
    if kind == "estimators":
        return key in (run["facts"].get("estimators") or ())
    own = run["description"]
    unrelated = {*UNRELATED, "num_simulations"} if "split" in description else {*UNRELATED}
    shared = (description.keys() & own.keys()) - unrelated
    seeds = own.get("seeds")
    of_seed = not isinstance(seeds, Mapping) or description.get("seed") in (None, *seeds.values())
    return bool(shared) and of_seed and all(description[k] == own[k] for k in shared)


def remove(entry: Entry) -> str:
    """Remove an artefact, unless it is in use or has changed; return why not, or nothing.

    The artefact's lock is held meanwhile, so nobody finds half of it.
    """
    lock = entry.path.parent.parent / LOCKS / lock_name(entry.kind, entry.key)
    aside = entry.path.with_name(f"{entry.path.name}.removed")
    try:
        with locked(lock), naming(entry.path, "removed"):
            if not entry.path.is_dir():
                return ""  # somebody else did
            if _newest(entry.path) > entry.modified:
                return "it changed"
            if aside.is_dir():  # of a removal that was killed
                shutil.rmtree(aside)
            entry.path.rename(aside)
            shutil.rmtree(aside)
    except InUseError:
        return "a process is working on it"
    except StoreError as error:
        return str(error)
    return ""


def _newest(path: Path) -> float:
    return max(file.lstat().st_mtime for file in (path, *path.rglob("*")))
