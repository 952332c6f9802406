"""Parts of an artefact that takes long to make: each is made once, whatever interrupts the rest.

A maker keeps its parts in the folder `PARTS` of the folder it is given and builds the artefact from
them; the store removes them when the artefact is complete. The artefact of a shard *is* its parts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from robust_npe.files import open_plain, write_atomically
from robust_npe.store.manifests import PARTS, CorruptArtefactError

__all__ = ["PARTS", "part", "read_part"]

log = logging.getLogger(__name__)


def part(path: Path, make: Callable[[], Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return a part, making it unless it is there; a damaged one is made again.

    Args:
        path: File of the part, `<name>.npz`; it is there as a whole or not at all.
        make: Returns the part's arrays (or numbers, or texts) by name.
    """
    if path.exists():
        try:
            return read_part(path)
        except CorruptArtefactError as error:
            log.warning("%s It is made again.", error)
    arrays = make()
    write_atomically(path, lambda file: np.savez(file, **arrays))
    return read_part(path)


def read_part(path: Path) -> dict[str, np.ndarray]:
    """Read a part.

    Raises:
        CorruptArtefactError: The file is damaged.
    """
    with open_plain(path, "part") as file:
        try:
            with np.load(file, allow_pickle=False) as stored:
                return dict(stored)
        except (ValueError, EOFError, BadZipFile) as error:
            raise CorruptArtefactError(f"{path} is damaged ({error}).") from error
