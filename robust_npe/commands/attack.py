"""`robust-npe attack`: another attack on the estimators of earlier runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from robust_npe.checks import ConfigError, require
from robust_npe.commands import train
from robust_npe.commands.experiment import Experiment
from robust_npe.commands.runs import (
    earlier_config,
    run_folder,
    stored_estimators,
    training_command,
)
from robust_npe.config import AttackConfig, TrainConfig, checked
from robust_npe.store import Store

__all__ = ["combined", "main"]

REPLACED = (
    "attack",
    "objective",
    "epsilon",
    "epsilon_unit",
    "norm",
    "domain",
    "plots",
    "output_dir",
    "device",
    "threads",
)


def main(config: DictConfig) -> train.Result:
    """Evaluate an attack on stored estimators; training is never repeated.

    Simulations and estimators come from the store beside each run, wherever that is; it is only
    read. What is measured and how finely are as in the run, except for what the configuration says.

    Args:
        config: Composed configuration, see `conf/attack.yaml`; `run` is a run's id or folder, or a
            list of them.

    Raises:
        ConfigError: There is no such run, its estimator is not there, or its configuration
            describes another one now; raised before any of them is attacked.
    """
    if OmegaConf.is_missing(config, "run"):
        raise ConfigError("run is not set: run=<id of a run in the output_dir, or its folder>.")
    settings = checked(config, AttackConfig)
    given = settings["run"] if isinstance(settings["run"], list) else [settings["run"]]
    expected = "a run's id or folder, or a list of different ones"
    for run in given:
        require(isinstance(run, str | int), "run", run, expected)
    require(0 < len(given) == len(set(map(str, given))), "run", given, expected)
    runs = Path(settings["output_dir"]) / "runs"
    folders = [run_folder(str(run), runs) for run in given]
    experiments = [_experiment(settings, folder) for folder in folders]
    commands = map(training_command, folders)
    return combined([train.run(*pair) for pair in zip(experiments, commands, strict=True)])


def combined(results: Sequence[train.Result]) -> train.Result:
    """Return several results as one, which is where their runs are."""
    if len(results) == 1:
        return results[0]
    table = pd.concat([result.table for result in results], ignore_index=True)
    text = "\n\n".join(result.text for result in results)
    created = any(result.created for result in results)
    return train.Result(table, results[0].folder.parent, text, created)


def _experiment(settings: dict[str, Any], folder: Path) -> Experiment:
    config = _combined(settings, earlier_config(folder))
    source = Store(folder.parent.parent / "store")
    return Experiment(config, source=source, members=stored_estimators(source, folder))


def _combined(settings: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """The earlier run's configuration, with another attack."""
    combined = checked(earlier | {key: settings[key] for key in REPLACED}, TrainConfig)
    changes = settings["evaluation"].items()
    combined["evaluation"] |= {key: value for key, value in changes if value is not None}
    if settings["metrics"]:
        combined["metrics"] = settings["metrics"]
    return combined
