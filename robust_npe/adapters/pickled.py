"""What a pickle would import, told without running it."""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

__all__ = ["imports_of", "load_object_array", "names_in_pickle"]

MOST = 10**6  # operations of a pickle that are looked at
COMPUTED = "a name that it computes"
KEEPS, PUTS = {"MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
NPY = b"\x93NUMPY"


def imports_of(path: Path) -> list[str] | None:
    """Return the full names that a file of `pickle.dump`, of `torch.save` in its old format, or of
    `numpy.save` with objects would import, sorted; None where it is none of these."""
    with path.open("rb") as file:
        if file.read(len(NPY)) == NPY and not _skip_header(file):
            return None
        if file.tell() == len(NPY):
            file.seek(0)
        return names_in_pickle(file)


def names_in_pickle(file: BinaryIO) -> list[str] | None:
    """Return the full names in the pickles that follow each other in a file, sorted; None where
    there is no whole one at its beginning."""
    names: set[str] = set()
    whole = 0
    try:
        while True:
            names |= set(_names(file))
            whole += 1
    except Exception:  # noqa: BLE001 (whatever else is in the file, or its end)
        return sorted(names) if whole else None


def load_object_array(path: Path) -> object:
    """Load the one object in a file of `numpy.save`; this runs whatever it says. None for others.

    Raises:
        ValueError: There are several.
    """
    with path.open("rb") as file:
        if file.read(len(NPY)) != NPY:
            return None
    return np.load(path, allow_pickle=True).item()


def _names(file: BinaryIO) -> Iterator[str]:
    """Yield what one pickle imports. Names are on the stack as strings, perhaps from the memo."""
    texts: list[Any] = []
    memo: dict[Any, Any] = {}
    for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
        if count > MOST:
            return
        name = operation.name
        if name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif name == "STACK_GLOBAL":
            known = len(texts) > 1 and all(isinstance(text, str) for text in texts[-2:])
            yield f"{texts[-2]}.{texts[-1]}" if known else COMPUTED
        elif name in KEEPS:
            memo[len(memo) if argument is None else argument] = texts[-1] if texts else None
        if name not in KEEPS and name != "FRAME":
            texts.append(memo.get(argument) if name in PUTS else argument)


def _skip_header(file: BinaryIO) -> bool:
    """Go to where the pickle of an npy file begins; tell whether there is one."""
    try:
        file.seek(0)
        major, _ = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
        _, _, dtype = read[major > 1](file)
    except ValueError:
        return False
    return bool(dtype.hasobject)
