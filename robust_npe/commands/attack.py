"""`robust-npe attack`: another attack on the estimator of an earlier run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from robust_npe.checks import ConfigError
from robust_npe.commands import train
from robust_npe.commands.experiment import Experiment
from robust_npe.config import AttackConfig, TrainConfig, checked
from robust_npe.store import Artefact, Store, finished, read_yaml_config

__all__ = ["main", "stored_estimator"]

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
    """Evaluate an attack on a stored estimator; training is never repeated.

    Simulations and the estimator come from the store beside the run, wherever that is; it is only
    read. What is measured and how finely are as in the run, except for what the configuration says.

    Args:
        config: Composed configuration, see `conf/attack.yaml`; `run` is a run's id or folder.

    Raises:
        ConfigError: There is no such run, its estimator is not there, or its configuration
            describes another one now.
    """
    if OmegaConf.is_missing(config, "run"):
        raise ConfigError("run is not set: run=<id of a run in the output_dir, or its folder>.")
    settings = checked(config, AttackConfig)
    folder = _run_folder(settings["run"], Path(settings["output_dir"]) / "runs")
    earlier = Artefact(folder, folder.name, created=False).verify("config.yaml")
    if "format" in earlier.manifest["description"]:
        raise ConfigError(
            f"run={settings['run']!r} was made by an older version of robust-npe, which named its "
            "settings otherwise: use that version, or train again with `robust-npe train`."
        )
    combined = _combined(settings, read_yaml_config(folder / "config.yaml"))
    source = Store(folder.parent.parent / "store")
    estimator = stored_estimator(source, folder)
    return train.run(Experiment(combined, source=source, estimator=estimator))


def _combined(settings: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """The earlier run's configuration, with another attack."""
    combined = checked(earlier | {key: settings[key] for key in REPLACED}, TrainConfig)
    changes = settings["evaluation"].items()
    combined["evaluation"] |= {key: value for key, value in changes if value is not None}
    if settings["metrics"]:
        combined["metrics"] = settings["metrics"]
    return combined


def stored_estimator(store: Store, folder: Path) -> Artefact:
    """Return the trained estimator that the run in a folder used.

    Raises:
        ConfigError: The store lacks it.
    """
    run = Artefact(folder, folder.name, created=False)
    key = str(run.manifest.get("facts", {}).get("estimator"))
    found = store.find("estimators", key) if re.fullmatch("[0-9a-f]{16}", key) else None
    if found is None:
        raise ConfigError(
            f"run={str(folder)!r}: its estimator {key} is not in {store.root}, or damaged. Bring "
            "that folder along with the run, or train again with `robust-npe train`."
        )
    return found


def _run_folder(given: str, runs: Path) -> Path:
    for folder in (runs / given, Path(given)):
        if (folder / "manifest.json").is_file():
            return folder.resolve()
    known = sorted(artefact.path.name for artefact in finished(runs))
    listing = ", ".join(known) if known else "there are none yet"
    raise ConfigError(f"run={given!r} was not found. Runs in {runs}: {listing}.")
