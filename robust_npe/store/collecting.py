"""One table from many runs: only those that mean the same, and only what is undamaged."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import pandas as pd

from robust_npe.files import StoreError
from robust_npe.store.artefacts import Artefact
from robust_npe.store.manifests import MANIFEST
from robust_npe.store.results import OBSERVATION_COLUMNS, RESULT_COLUMNS, read_table

__all__ = ["class_versions", "collect", "collect_readable", "outdated_classes"]

log = logging.getLogger(__name__)

K = TypeVar("K")

LAYOUT, LAYOUT_VERSION = "the layout of runs", [1]


def collect(runs: Path, table: str = "results") -> pd.DataFrame:
    """Gather the tables of all runs below a folder into one, newest runs last.

    Runs that an older version made, where the same settings meant other numbers, are left out with
    a warning instead of being averaged with the others; so are damaged ones.

    Args:
        runs: Folder with one folder per run.
        table: `results` or `observations`.

    Raises:
        FileNotFoundError: There is no finished run.
        StoreError: None of them can be read.
    """
    found, problems = collect_readable(runs, table)
    for problem in problems:
        log.warning("skipped a run: %s", problem)
    return found


def collect_readable(runs: Path, table: str = "results") -> tuple[pd.DataFrame, list[str]]:
    """Do the same, and return also what is wrong with each run that cannot be read."""
    columns = RESULT_COLUMNS if table == "results" else OBSERVATION_COLUMNS
    manifests: dict[Artefact, dict[str, Any]] = {}
    problems: list[str] = []
    for run in _runs(runs, table):
        try:
            manifest = run.verify(f"{table}.csv").manifest
            if manifest["key"] in {m["key"] for m in manifests.values()}:
                raise StoreError(f"{run.path} is a copy of run {manifest['key']}.")
            manifests[run] = manifest
        except StoreError as error:
            problems.append(str(error))
    if not manifests and not problems:
        raise FileNotFoundError(f"No finished runs in {runs}: run `robust-npe train` first.")
    current = _newest_versions(manifests, runs)
    tables = []
    for run in sorted(current, key=lambda run: (manifests[run]["created"], run.key)):
        try:
            tables.append(read_table(run.path / f"{table}.csv", columns))
        except StoreError as error:
            problems.append(str(error))
    if not tables:
        why = problems[0] if problems else "an older version made them; repeat them."
        raise StoreError(f"No run in {runs} can be read: {why}")
    return pd.concat(tables, ignore_index=True), problems


def _runs(folder: Path, table: str) -> list[Artefact]:
    """Return all runs, those without a manifest too; what has a suffix is no finished run."""
    paths = {p.parent for name in (MANIFEST, f"{table}.csv") for p in folder.glob(f"*/{name}")}
    return [Artefact(p, p.name, created=False) for p in sorted(paths) if "." not in p.name]


def _newest_versions(manifests: Mapping[Artefact, dict[str, Any]], where: Path) -> list[Artefact]:
    """Return the runs of which no class is older than in another run."""
    versions = {run: class_versions(manifest["description"]) for run, manifest in manifests.items()}
    older = outdated_classes(versions)
    outdated = [names for names in older.values() if names]
    if outdated:
        log.warning(
            "left out %d runs in %s that an older version made (changed since: %s): repeat them, "
            "or use another folder",
            len(outdated),
            where,
            ", ".join(sorted({name for names in outdated for name in names})),
        )
    return [run for run, names in older.items() if not names]


def outdated_classes(versions: Mapping[K, Mapping[str, list[int]]]) -> dict[K, list[str]]:
    """Return, for each, the classes of which another has a newer version.

    Args:
        versions: From `class_versions`, by whatever they belong to.
    """
    newest = {LAYOUT: LAYOUT_VERSION}
    for found in versions.values():
        for name, version in found.items():
            newest[name] = max(newest.get(name, version), version)
    return {
        key: [name for name, version in found.items() if version < newest[name]]
        for key, found in versions.items()
    }


def class_versions(description: dict[str, Any]) -> dict[str, list[int]]:
    """Return the version of every class that a description names, and that of its layout."""
    found: dict[str, list[int]] = {}
    todo: list[Any] = [description]  # not recursive: a stored file may be nested deeply
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            name, version = node.get("class"), node.get("version")
            if isinstance(name, str) and _is_version(version):
                found[name] = version
            todo += node.values()
        elif isinstance(node, list):
            todo += node
    # runs were numbered as a whole before classes had versions
    return {LAYOUT: [0] if "format" in description else LAYOUT_VERSION, **found}


def _is_version(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(isinstance(number, int) for number in value)
