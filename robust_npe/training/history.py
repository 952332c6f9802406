"""What a training leaves for people to look at: a table by epoch, or by trajectory of a sampler."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

import pandas as pd

from robust_npe.files import open_plain, write_atomically
from robust_npe.training.state import History

__all__ = ["history_table", "read_history", "write_history"]

COUNTS = ["epoch", "trajectory", "chain"]
NUMBERS = ["train_loss", "validation_loss", "learning_rate"]


def history_table(history: History) -> pd.DataFrame:
    """Return one row per epoch: `epoch`, `train_loss`, `validation_loss` (nan where training
    stopped before it), `learning_rate`, and `is_best`, true in the row whose weights were kept."""
    columns = history.train_loss, history.validation_loss, history.learning_rate
    rows = list(zip_longest(*columns, fillvalue=float("nan")))
    table = pd.DataFrame(rows, columns=NUMBERS, dtype="float64")
    table.insert(0, "epoch", range(len(table)))
    return table.assign(is_best=table.epoch == history.best_epoch)


def write_history(table: pd.DataFrame, path: Path) -> None:
    """Write `history_table`, or the history of an inference, with numbers from which reading gives
    the same float64."""
    write_atomically(path, table.to_csv(index=False, lineterminator="\n").encode())


def read_history(path: Path) -> pd.DataFrame:
    """Read what `write_history` wrote.

    Raises:
        StoreError: It cannot be read.
    """
    with open_plain(path, "table") as file:  # converted here: exact for every version of pandas
        table = pd.read_csv(file, dtype="str", keep_default_na=False)
    names = [str(name) for name in table]
    flags = {name: table[name] == "True" for name in names if name.startswith("is_")}
    types = {name: "int64" if name in COUNTS else "float64" for name in names if name not in flags}
    return table.replace("", "nan").astype(types).assign(**flags)
