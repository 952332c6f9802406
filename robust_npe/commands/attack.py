"""`robust-npe attack`: another attack on the estimator of an earlier run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from robust_npe.checks import ConfigError
from robust_npe.commands import train
from robust_npe.commands.experiment import Experiment
from robust_npe.config import AttackConfig, checked
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

    Simulations and the estimator come from the store beside the run, wherever that is; what is
    measured and how finely are as in the run, except for what the configuration says.

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
    combined = _combined(settings, read_yaml_config(folder / "config.yaml"))
    store = Store(folder.parent.parent / "store")
    return train.run(Experiment(combined, store, stored_estimator(store, folder)))


def _combined(settings: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """The earlier run's configuration, with another attack."""
    combined = earlier | {key: settings[key] for key in REPLACED}
    changes = {key: value for key, value in settings["evaluation"].items() if value is not None}
    combined["evaluation"] = {**earlier.get("evaluation", {}), **changes}
    if settings["metrics"]:
        combined["metrics"] = settings["metrics"]
    return combined


def stored_estimator(store: Store, folder: Path) -> Artefact:
    """Return the trained estimator that the run in a folder used.

    Raises:
        ConfigError: The store lacks it.
    """
    run = Artefact(folder, folder.name, created=False)
    key = run.manifest.get("facts", {}).get("estimator")
    found = store.find("estimators", str(key))
    if found is None:
        raise ConfigError(
            f"run={str(folder)!r}: its estimator {key} is not in {store.root}. Bring that folder "
            "along with the run, or train again with `robust-npe train`."
        )
    return found


def _run_folder(given: str, runs: Path) -> Path:
    for folder in (runs / given, Path(given)):
        if (folder / "manifest.json").is_file():
            return folder.resolve()
    known = sorted(artefact.path.name for artefact in finished(runs))
    listing = ", ".join(known) if known else "there are none yet"
    raise ConfigError(f"run={given!r} was not found. Runs in {runs}: {listing}.")
