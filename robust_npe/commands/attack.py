"""`robust-npe attack`: another attack on the estimators of earlier runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from robust_npe.checks import ConfigError, require
from robust_npe.commands import train
from robust_npe.commands.experiment import Experiment
from robust_npe.config import AttackConfig, TrainConfig, checked
from robust_npe.store import Artefact, Store, finished, read_yaml_config

__all__ = ["combined", "main", "stored_estimators"]

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
    experiments = [_experiment(settings, str(run)) for run in given]
    return combined([train.run(experiment) for experiment in experiments])


def combined(results: Sequence[train.Result]) -> train.Result:
    """Return several results as one, which is where their runs are."""
    if len(results) == 1:
        return results[0]
    table = pd.concat([result.table for result in results], ignore_index=True)
    text = "\n\n".join(result.text for result in results)
    return train.Result(table, results[0].folder.parent, text)


def _experiment(settings: dict[str, Any], run: str) -> Experiment:
    folder = _run_folder(run, Path(settings["output_dir"]) / "runs")
    earlier = Artefact(folder, folder.name, created=False).verify("config.yaml")
    if "format" in earlier.manifest["description"]:
        raise ConfigError(
            f"run={run!r} was made by an older version of robust-npe, which named its "
            "settings otherwise: use that version, or train again with `robust-npe train`."
        )
    config = _combined(settings, read_yaml_config(folder / "config.yaml"))
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


def stored_estimators(store: Store, folder: Path) -> list[Artefact]:
    """Return the trained estimators that the run in a folder used.

    Raises:
        ConfigError: The store lacks one.
    """
    facts = Artefact(folder, folder.name, created=False).manifest.get("facts", {})
    keys = facts.get("estimators", [facts.get("estimator")])  # one, in earlier versions
    found = []
    for key in map(str, keys if isinstance(keys, list) and keys else [None]):
        estimator = store.find("estimators", key) if re.fullmatch("[0-9a-f]{16}", key) else None
        if estimator is None:
            raise ConfigError(
                f"run={str(folder)!r}: its estimator {key} is not in {store.root}, or damaged. "
                "Bring that folder along with the run, or train again with `robust-npe train`."
            )
        found.append(estimator)
    return found


def _run_folder(given: str, runs: Path) -> Path:
    for folder in (runs / given, Path(given)):
        if (folder / "manifest.json").is_file():
            return folder.resolve()
    known = sorted(artefact.path.name for artefact in finished(runs))
    listing = ", ".join(known) if known else "there are none yet"
    raise ConfigError(f"run={given!r} was not found. Runs in {runs}: {listing}.")
