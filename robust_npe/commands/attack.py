"""`robust-npe attack`: another attack on the estimator of an earlier run."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf

from robust_npe.checks import ConfigError
from robust_npe.commands import train
from robust_npe.config import TrainConfig, plain

__all__ = ["main"]

REPLACED = (
    "attack",
    "objective",
    "epsilon",
    "epsilon_unit",
    "norm",
    "domain",
    "metrics",
    "plots",
    "output_dir",
    "device",
    "threads",
)


def main(config: DictConfig) -> train.Result:
    """Evaluate an attack on a stored estimator; training is never repeated.

    Args:
        config: Composed configuration, see `conf/attack.yaml`; `run` is a run's id or folder.

    Raises:
        ConfigError: There is no such run.
    """
    earlier = OmegaConf.load(_run_folder(config) / "config.yaml")
    kept = {key: value for key, value in plain(earlier).items() if key not in REPLACED}
    replaced = {key: plain(config[key]) for key in REPLACED}
    changes = {key: value for key, value in config.evaluation.items() if value is not None}
    replaced["evaluation"] = kept["evaluation"] | changes
    combined = OmegaConf.merge(OmegaConf.structured(TrainConfig), kept | replaced)
    return train.main(cast(DictConfig, combined))


def _run_folder(config: DictConfig) -> Path:
    given = config.get("run")
    runs = Path(config.output_dir) / "runs"
    if OmegaConf.is_missing(config, "run"):
        raise ConfigError(f"run is not set: run=<id of a run in {runs}, or its folder>.")
    for folder in (runs / given, Path(given)):
        if (folder / "manifest.json").is_file():
            return folder
    known = sorted(p.parent.name for p in runs.glob("*/manifest.json"))
    listing = ", ".join(known) if known else "there are none yet"
    raise ConfigError(f"run={given!r} was not found. Runs in {runs}: {listing}.")
