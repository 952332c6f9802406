"""`robust-npe reference`: samples of true posteriors, from prior and likelihood."""

from __future__ import annotations

import json
import logging
import math
import sys
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from robust_npe.checks import ConfigError, require
from robust_npe.commands.evaluation import digest, perturbed
from robust_npe.commands.experiment import Experiment, Trained
from robust_npe.config import ReferenceConfig, TrainConfig, checked
from robust_npe.files import write_atomically
from robust_npe.metrics import c2st
from robust_npe.random import stream
from robust_npe.reference import (
    ImpossibleObservationError,
    PosteriorSamples,
    ReferenceSettings,
    reference_posterior,
)
from robust_npe.reference.target import check_likelihood
from robust_npe.store import PARTS, part

__all__ = ["References", "main"]

log = logging.getLogger(__name__)

SOURCES = ("test", "stored")
PROPOSALS = ("estimator", "prior")


@dataclass(frozen=True)
class References:
    """What the command returns.

    Attributes:
        table: One row per observation and radius.
        folders: Folder of each radius: `x.npy (n, Dx)`, `samples.npy (n, S, D)`, `table.csv`.
        text: What to show at the end.
    """

    table: pd.DataFrame
    folders: list[Path]
    text: str


@dataclass(frozen=True)
class Observations:
    """Observations, clean and (at radius 0 the same) perturbed, with their numbers."""

    numbers: list[int]
    x: Tensor
    x_adv: Tensor
    epsilon: float


def main(config: DictConfig) -> References:
    """Compute, or find, the true posteriors of clean and attacked observations.

    Args:
        config: Composed configuration, see `conf/reference.yaml`.

    Raises:
        ConfigError: A setting is wrong or the task has no likelihood; raised before any work.
    """
    options = checked(config, ReferenceConfig)
    experiment = _experiment(options)
    settings = ReferenceSettings(**options["reference"])
    attack = any(epsilon > 0 for epsilon in experiment.epsilons)
    closed = settings.method in ("auto", "exact") and experiment.task.knows("true_posterior")
    needs_estimator = attack or (options["proposal"] == "estimator" and not closed)
    trained = experiment.trained() if needs_estimator else None
    theta, x, numbers = _clean(experiment, options)
    tables, folders = [], []
    for epsilon in experiment.epsilons:
        x_adv = x
        if epsilon > 0 and trained is not None:
            x_adv = perturbed(experiment, trained, theta, x, epsilon).x_adv
        count = len(numbers)
        observations = Observations(numbers, x[:count].cpu(), x_adv[:count].cpu(), epsilon)
        proposal = trained if options["proposal"] == "estimator" and not closed else None
        job = _Job(experiment, settings, observations, proposal, options["c2st"] and epsilon == 0)
        folder = job.run()
        tables.append(pd.read_csv(folder / "table.csv"))
        folders.append(folder)
    table = pd.concat(tables, ignore_index=True)
    return References(table, folders, _text(experiment.task.name, table, folders))


def _experiment(options: dict[str, Any]) -> Experiment:
    kept = {f.name: options[f.name] for f in fields(TrainConfig)}
    # nothing is measured here, whatever a scale says about sizes
    experiment = Experiment({**kept, "metrics": {}})
    task, count = experiment.task, options["observations"]
    require(options["source"] in SOURCES, "source", options["source"], f"one of {SOURCES}")
    require(
        options["proposal"] in PROPOSALS, "proposal", options["proposal"], f"one of {PROPOSALS}"
    )
    if options["source"] == "stored" and task.num_references == 0:
        raise ConfigError(
            f"source=stored needs a task that stores reference observations; {task.name} has "
            "none. Use source=test."
        )
    stored = options["source"] == "stored"
    require(stored or not options["c2st"], "c2st", True, "false, unless source=stored")
    most = task.num_references if stored else experiment.evaluation.num_attacked
    require(0 < count <= most, "observations", count, f"between 1 and {most}")
    if not task.knows("true_posterior"):
        check_likelihood(task)
    return experiment


def _clean(experiment: Experiment, options: dict[str, Any]) -> tuple[Tensor, Tensor, list[int]]:
    """Return theta, x and the numbers of those that are wanted, from the first.

    From the test set come all that `train` attacks: an attack draws its random numbers for the
    batch, and so x~ is the same as in `train`.
    """
    if options["source"] == "stored":
        numbers = list(range(1, options["observations"] + 1))
        found = [experiment.task.reference(i) for i in numbers]
        theta, x = torch.stack([r.theta for r in found]), torch.stack([r.x for r in found])
        return theta.to(experiment.device), x.to(experiment.device), numbers
    theta, x = experiment.test_set
    count = experiment.evaluation.num_attacked
    return theta[:count], x[:count], list(range(options["observations"]))


@dataclass(frozen=True)
class _Job:
    """The true posteriors of one set of observations."""

    version: ClassVar[int] = 2  # raise it when the same settings come to mean other samples

    experiment: Experiment
    settings: ReferenceSettings
    observations: Observations
    trained: Trained | None
    compare: bool

    def run(self) -> Path:
        """Return the artefact's folder, computed if needed; an interrupted one continues."""
        store = self.experiment.store
        artefact = store.get("references", self.description, self._make, resumable=True)
        verb = "computed" if artefact.created else "found"
        log.info("%s true posteriors in %s", verb, artefact.path)
        return artefact.path

    @property
    def description(self) -> dict[str, Any]:
        """Everything that determines the samples."""
        o = self.observations
        return {
            "class": "Reference",
            "version": [self.version],
            "task": self.experiment.task_description,
            "numbers": o.numbers,
            "epsilon": o.epsilon,
            "x": digest(o.x),
            "x_adv": digest(o.x_adv),
            "settings": asdict(self.settings),
            "proposal": self.trained and self.experiment.posterior_description,
            "seed": self.experiment.seeds.evaluation,
            "c2st": self.compare,
        }

    def _make(self, folder: Path) -> dict[str, Any]:
        numbers = self.observations.numbers
        rows, samples = [], []
        for k in tqdm(range(len(numbers)), desc="references", disable=not sys.stderr.isatty()):
            found = part(folder / PARTS / f"observation_{k}.npz", partial(self._one, k))
            rows.append(json.loads(str(found["row"])))
            samples.append(found["samples"])
        table = pd.DataFrame(rows)
        text = table.to_csv(index=False, lineterminator="\n")
        write_atomically(folder / "table.csv", text.encode())
        x_adv = self.observations.x_adv.numpy()
        for name, array in {"samples": np.stack(samples), "x": x_adv}.items():
            write_atomically(folder / f"{name}.npy", partial(_save, array))
        return {"converged": int(table.converged.sum()), "observations": len(table)}

    def _one(self, k: int) -> dict[str, Any]:
        samples, row = self._sampled(k)
        return {"samples": samples.numpy(), "row": json.dumps(row)}

    def _sampled(self, k: int) -> tuple[Tensor, dict[str, Any]]:
        task, o = self.experiment.task, self.observations
        generator = stream(self.experiment.seeds.evaluation, "reference", o.numbers[k])
        proposals = []
        if self.trained is not None:
            inputs = [o.x_adv[k : k + 1]] + ([o.x[k : k + 1]] if o.epsilon > 0 else [])
            with torch.no_grad():
                q = [self.trained.posterior(v.to(self.experiment.device)) for v in inputs]
            proposals += q
        row: dict[str, Any] = {"observation": o.numbers[k], "epsilon": o.epsilon}
        try:
            p = reference_posterior(task, o.x_adv[k], proposals, generator, self.settings)
        except ImpossibleObservationError as error:
            log.warning("observation %d: %s", o.numbers[k], error)
            empty = torch.full((self.settings.num_samples, task.dim_theta), math.nan)
            return empty, row | {"method": "none", "ess": 0.0, "converged": False}
        row |= _verdict(p)
        if self.compare:
            stored = task.reference(o.numbers[k]).samples[: len(p.samples)]
            row["c2st"] = c2st(stored, p.samples[: len(stored)])
        return p.samples, row


def _verdict(p: PosteriorSamples) -> dict[str, Any]:
    return {
        "method": p.method,
        "ess": p.ess,
        "diagnostic": p.diagnostic,
        "diagnostic_value": p.diagnostic_value,
        "converged": p.converged,
        "log_evidence": p.log_evidence,
        "evaluations": p.evaluations,
    }


def _save(array: np.ndarray, file: BinaryIO) -> None:
    np.save(file, array)


def _text(task: str, table: pd.DataFrame, folders: list[Path]) -> str:
    body = table.to_string(index=False, float_format=lambda v: f"{v:.3g}", na_rep="-")
    bad = int((~table.converged).sum())
    head = f"true posteriors of {task}"
    if bad:
        head += f": {bad} of {len(table)} NOT CONVERGED, not to be used as references"
    return "\n".join([head, body, "", *(f"  {folder}" for folder in folders)])
