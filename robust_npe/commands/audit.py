"""`robust-npe audit`: examine the posterior of a run at the user's own observations."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

import robust_npe
from robust_npe.auditing import AuditSettings, Case, checked_radii, examine, unit_text
from robust_npe.auditing.reading import read_rows
from robust_npe.checks import ConfigError, require
from robust_npe.commands.attack import REPLACED
from robust_npe.commands.evaluation import digest
from robust_npe.commands.experiment import Experiment
from robust_npe.commands.runs import earlier_config, run_folder, stored_estimators
from robust_npe.config import AuditConfig, TrainConfig, checked
from robust_npe.store import Store

__all__ = ["main"]

log = logging.getLogger(__name__)

VERSION = 1  # raise it when the same settings come to mean other tables or another page
NAME_NEEDED = "{0} is not set: {0}=<{1}>."


class Audited(NamedTuple):
    """What is audited: a run, its observations and their parameters."""

    experiment: Experiment
    run: str
    x: Tensor
    theta: Tensor | None


def main(config: DictConfig) -> str:
    """Audit the posterior of an earlier run and return the summary.

    Args:
        config: Composed configuration, see `conf/audit.yaml`.

    Raises:
        ConfigError: There is no such run, or the observations do not fit it; raised before any
            work is done.
    """
    for key, what in {"run": "id of a run in the output_dir, or its folder", "x": "file"}.items():
        if OmegaConf.is_missing(config, key):
            raise ConfigError(NAME_NEEDED.format(key, what))
    settings = checked(config, AuditConfig)
    finely = AuditSettings(**settings["audit"])
    audited = _audited(settings)
    description = {
        **audited.experiment.threat_description,
        "epsilon": checked_radii(audited.experiment.epsilons),
        "x": digest(audited.x),
        "theta": None if audited.theta is None else digest(audited.theta),
        "audit": {"class": "audit", "version": [VERSION, finely.version], **asdict(finely)},
        "seed": settings["seed"],
        "report": settings["report"],
    }

    def make(folder: Path) -> None:
        report = examine(_case(audited, settings), audited.experiment.attack, finely)
        report.save(folder, settings["report"])
        (folder / "summary.txt").write_text(f"{report}\n")

    artefact = Store(settings["output_dir"]).get("audits", description, make)
    if not artefact.created:
        log.info("this audit was done before: nothing to compute")
    artefact.verify("summary.txt")
    files = sorted(p for p in artefact.path.iterdir() if p.name != "manifest.json")
    listing = "\n".join(["wrote:" if artefact.created else "found:", *(f"  {p}" for p in files)])
    return f"{(artefact.path / 'summary.txt').read_text()}\n{listing}"


def _audited(settings: dict[str, Any]) -> Audited:
    """Find the run and read the observations."""
    run = settings["run"]
    require(isinstance(run, str | int), "run", run, "a run's id or folder")
    device = settings["device"]
    require(device == "cpu", "device", device, "cpu, where tasks and checks live")
    folder = run_folder(str(run), Path(settings["output_dir"]) / "runs")
    kept = {key: settings[key] for key in REPLACED if key in settings}
    changes = {**kept, "metrics": {}, "plots": False}
    source = Store(folder.parent.parent / "store")
    earlier = checked(earlier_config(folder) | changes, TrainConfig)
    members = stored_estimators(source, folder)
    experiment = Experiment(earlier, source=source, members=members)
    task = experiment.task
    expected = "a run whose task has parameters; that of a VAE is looked at by metrics alone"
    require(task.has_theta, "run", run, expected)
    shape = getattr(task, "x_shape", (task.dim_x,))
    x = read_rows("x", Path(settings["x"]), shape, task.x_names)
    theta = settings["theta"]
    if theta is not None:
        theta = read_rows("theta", Path(theta), (task.dim_theta,), task.theta_names)
        expected = f"as x, {len(x)} of them"
        require(len(theta) == len(x), "number of rows of theta", len(theta), expected)
    return Audited(experiment, folder.name, x, theta)


def _case(audited: Audited, settings: dict[str, Any]) -> Case:
    """Load the posterior, and the simulations that it was trained and tested on."""
    experiment, x = audited.experiment, audited.x
    radii = checked_radii(experiment.epsilons)
    trained = experiment.trained()
    most = settings["audit"]["num_simulations"]
    reference = experiment.simulate("train", experiment.config["num_simulations"]).x[:most]
    theta, held_out = (part.cpu() for part in experiment.test_set)
    names, threat = experiment.task.x_names, experiment.threat
    text = unit_text(threat, experiment.auto, radii, names, experiment.ball)
    defense = experiment.defense
    beta = "" if defense.beta is None else f" beta={defense.beta:g}"
    about = {
        "Posterior": f"{trained.name} of {experiment.task.name}, defense {defense.name}{beta}, "
        f"trained on {trained.num_pairs:.0f} simulations",
        "Run": audited.run,
        "Observations": f"{len(x)} with {x.shape[1]} feature(s), from {Path(settings['x']).name}",
        "Simulations": f"{len(reference)} of the training to learn what is typical from, "
        f"{len(held_out)} others to test",
        "Command": f"run={audited.run} x={settings['x']}",
        "Software": f"robust-npe {robust_npe.__version__}, torch {torch.__version__}, "
        f"seed {settings['seed']}",
    }
    given = trained.posterior, x, audited.theta, experiment.task
    pairs = reference, (theta, held_out)
    return Case(*given, *pairs, radii, experiment.ball, text, about, settings["seed"])
