"""`robust-npe compare`: two or more runs, observation by observation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from robust_npe.checks import ConfigError, require
from robust_npe.commands.runs import run_folder
from robust_npe.comparison import paired
from robust_npe.config import CompareConfig, checked
from robust_npe.files import write_atomically
from robust_npe.plotting.names import defense_name
from robust_npe.store import OBSERVATION_COLUMNS, Artefact, read_table

__all__ = ["main"]

SHARED = (("task",), ("seeds", "data"), ("evaluation", "num_test"))
"""What must be equal in the descriptions of runs whose observations are the same."""


def main(config: DictConfig) -> str:
    """Compare the first run with each of the others, write a table, and return a short one.

    Args:
        config: Composed configuration, see `conf/compare.yaml`; `run` is a list of runs' ids or
            folders.

    Raises:
        ConfigError: There is no such run, or the runs attacked different observations.
    """
    if OmegaConf.is_missing(config, "run"):
        raise ConfigError("run is not set: run=<id or folder>,<id or folder>.")
    settings = checked(config, CompareConfig)
    given = settings["run"] if isinstance(settings["run"], list) else [settings["run"]]
    expected = "a list of two or more different runs' ids or folders"
    require(1 < len(given) == len(set(map(str, given))), "run", settings["run"], expected)
    output = Path(settings["output_dir"])
    runs = [_run(str(run), output / "runs") for run in given]
    _require_same_observations(runs)
    tables = [read_table(run.path / "observations.csv", OBSERVATION_COLUMNS) for run in runs]
    observations = pd.concat(tables, ignore_index=True)
    names = [table.run_id.iloc[0] if len(table) else "" for table in tables]
    compared = [
        paired(observations, settings["quantity"], names[0], name).assign(a=names[0], b=name)
        for name in names[1:]
    ]
    table = pd.concat(compared, ignore_index=True)
    table = table[["a", "b", *(c for c in table.columns if c not in "ab")]]
    path = Path(settings["to"] or output / "comparison.csv")
    write_atomically(path, table.to_csv(index=False, lineterminator="\n").encode())
    return f"{_text(table, settings['quantity'], tables)}\n\nwrote:\n  {path}"


def _run(given: str, runs: Path) -> Artefact:
    folder = run_folder(given, runs)
    return Artefact(folder, folder.name, created=False).verify("observations.csv")


def _require_same_observations(runs: Sequence[Artefact]) -> None:
    for keys in SHARED:
        values = []
        for run in runs:
            node: Any = run.manifest["description"]
            for key in keys:
                node = node.get(key) if isinstance(node, dict) else None
            values.append(node)
        if any(value != values[0] for value in values):
            raise ConfigError(
                f"run={','.join(run.key for run in runs)}: their {'.'.join(keys)} differs, so that "
                "they attacked different observations: compare runs that share it."
            )


def _text(table: pd.DataFrame, quantity: str, tables: Sequence[pd.DataFrame]) -> str:
    """Return the short table: median of the differences with its interval, ratio of the medians
    where both are positive, number of pairs with an answer of both, how often the first is larger.
    """
    lines = [f"medians of {quantity}, the first run (a) against each other (b)"]
    lines += [_who(rows) for rows in tables]
    positive = table[["median_a", "median_b"]].min(axis=1) > 0
    short = pd.DataFrame(
        {
            "b": table.b,
            "epsilon": table.epsilon.map("{:g}".format),
            "a": table.median_a.map("{:.3g}".format),
            "b ": table.median_b.map("{:.3g}".format),
            "a - b": table.difference.map("{:.3g}".format),
            "95 %": [
                f"{r.difference_low:.3g} to {r.difference_high:.3g}"
                for r in table.itertuples(index=False)
            ],
            "a/b": table.ratio.map("{:.3g}".format).where(positive, "-"),
            "pairs": table.num_observations,
            "a > b": table.share_above.map("{:.0%}".format),
            "sign test": table.sign_test.map("{:.2g}".format),
        }
    ).rename(columns={"b": "run b", "a": "median a", "b ": "median b"})
    return "\n".join([*lines, short.to_string(index=False)])


def _who(rows: pd.DataFrame) -> str:
    """Return a run's id, defense and attack."""
    attacked = rows[rows.attack != "none"]
    first = attacked.iloc[0] if len(attacked) else rows.iloc[0]
    others = first.defense_settings if isinstance(first.defense_settings, str) else ""
    defense = defense_name(first.defense, first.beta, first.defense_epsilon, others)
    words = (first.attack, first.objective, first.attack_settings, f"domain={first.domain}")
    attack = " ".join(str(word) for word in words if isinstance(word, str) and word)
    who = f"{first.task}, {first.estimator}, seed {first.seed}, defense {defense}, {attack}"
    return f"  {first.run_id}  {who}"
