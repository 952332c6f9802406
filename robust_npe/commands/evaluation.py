"""Attack a trained estimator at every radius and measure; the result is tidy tables."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from robust_npe.attacks import Found, settings
from robust_npe.commands.experiment import Experiment, Trained
from robust_npe.components import written
from robust_npe.metrics import Context, Measurement
from robust_npe.random import draws_from, stream
from robust_npe.store import OBSERVATION_COLUMNS, RESULT_COLUMNS, write_table
from robust_npe.store.parts import PARTS, part

__all__ = ["digest", "evaluate", "perturbed"]


def evaluate(experiment: Experiment, trained: Trained, run_id: str, folder: Path) -> pd.DataFrame:
    """Measure on clean and on attacked observations and write both tables.

    What was measured at each radius is kept as a part: interrupted evaluations continue.

    Args:
        experiment: What to evaluate.
        trained: The estimator.
        run_id: Identity of the run, the first column of both tables.
        folder: Where `results.csv` and `observations.csv` go.

    Returns:
        The table of results.
    """
    keys = _run_keys(experiment, trained, run_id)
    results: list[dict[str, Any]] = _training_rows(keys, trained)
    observations: list[pd.DataFrame] = []
    kept: dict[str, Any] = {}
    radii = [None, *experiment.epsilons]
    for epsilon in tqdm(radii, desc="evaluate", disable=not sys.stderr.isatty()):
        path = folder / PARTS / f"{'clean' if epsilon is None else epsilon}.npz"
        measured = part(path, partial(_measure, experiment, trained, epsilon, kept))
        shared = {**keys, **json.loads(str(measured.pop("columns")))}
        results += [{**shared, **row} for row in json.loads(str(measured.pop("rows")))]
        for metric, values in measured.items():
            numbered = {"metric": metric, "observation": range(len(values)), "value": values}
            observations.append(pd.DataFrame({**shared, **numbered}))
    rows = pd.concat(observations) if observations else pd.DataFrame(columns=[*OBSERVATION_COLUMNS])
    write_table(rows, folder / "observations.csv", OBSERVATION_COLUMNS)
    return write_table(results, folder / "results.csv", RESULT_COLUMNS)


def _run_keys(experiment: Experiment, trained: Trained, run_id: str) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "task": experiment.task.name,
        "estimator": trained.name,
        "defense": experiment.defense.name,
        "beta": experiment.defense.beta,
        "defense_epsilon": experiment.defense.epsilon,
        "defense_settings": written(experiment.config["defense"], skip=("beta", "epsilon")),
        "num_simulations": experiment.config["num_simulations"],
        "seed": experiment.seeds.training,
        "data_seed": experiment.seeds.data,
        "epsilon_unit": experiment.threat.epsilon_unit,
    }


CLEAN = {
    "attack": "none",
    "attack_settings": "",
    "norm": "",
    "objective": "",
    "domain": "",
    "epsilon": 0.0,
    "epsilon_abs": 0.0,
}


def _training_rows(keys: dict[str, Any], trained: Trained) -> list[dict[str, Any]]:
    """Whether the training diverged, and how many pairs were left for it."""
    values = {"diverged": float(trained.diverged), "num_pairs": trained.num_pairs}
    shared = {**keys, **CLEAN, "metric": "training", "level": None}
    return [{**shared, "statistic": name, "value": value} for name, value in values.items()]


def _measure(
    experiment: Experiment, trained: Trained, epsilon: float | None, kept: dict[str, Any]
) -> dict[str, Any]:
    """Measure at one radius, or (None) on the whole clean test set."""
    theta, x = experiment.test_set
    shared = (experiment.task, trained.posterior)
    last = experiment.seeds.evaluation, experiment.evaluation.batch_size
    threat = experiment.attack, experiment.ball
    if epsilon is None:
        columns, extra = CLEAN, []
        context = Context(*shared, theta, x, x, False, *last, *threat)
    else:
        count = experiment.evaluation.num_attacked
        theta, x = theta[:count], x[:count]
        found = perturbed(experiment, trained, theta, x, epsilon)
        columns, extra = _attack_columns(experiment, epsilon), _zero_gradients(found)
        context = Context(*shared, theta, x, found.x_adv, True, *last, *threat, epsilon, found)
    context = replace(context, kept=kept)
    with draws_from(stream(experiment.seeds.evaluation, "posterior", str(epsilon))):
        metrics = [
            metric
            for metric in experiment.metrics.values()
            if experiment.task.has_theta or not metric.needs_theta
        ]
        measured = [m for metric in metrics for m in metric(context)]
    measurements = measured + extra
    rows = [{"metric": m.metric, **row} for m in measurements for row in m.rows]
    values = {
        m.metric: m.per_observation.double().cpu().numpy()
        for m in measurements
        if m.per_observation is not None
    }
    return {"columns": json.dumps(columns), "rows": json.dumps(rows), **values}


def _attack_columns(experiment: Experiment, epsilon: float) -> dict[str, Any]:
    attack, threat = experiment.attack, experiment.threat
    return {
        "attack": attack.name,
        "attack_settings": settings(attack),
        "norm": threat.norm,
        "objective": getattr(getattr(attack, "objective", None), "name", ""),
        "domain": threat.domain,
        "epsilon": epsilon,
        "epsilon_abs": epsilon * experiment.unit,
    }


def _zero_gradients(found: Found) -> list[Measurement]:
    """How often the attack had no gradient to follow."""
    if found.zero_gradients is None:
        return []
    share = float(found.zero_gradients.double().mean())
    row = {"statistic": "zero_gradient_fraction", "level": None, "value": share}
    return [Measurement("attack", [row])]


def perturbed(
    experiment: Experiment, trained: Trained, theta: Tensor, x: Tensor, epsilon: float
) -> Found:
    """Attack observations, or find in the store what the attack found before.

    Args:
        experiment: What is evaluated.
        trained: The estimator that is attacked.
        theta: The parameters that generated x, shape `(B, D)`.
        x: Clean observations, shape `(B, Dx)`. The same batch gives the same result.
        epsilon: Radius in `epsilon_unit`.
    """
    description = {**experiment.threat_description, "x": digest(x), "epsilon": epsilon}

    def search(folder: Path) -> None:
        found = _search(experiment, trained, theta, x, epsilon)
        np.save(folder / "x_adv.npy", found.x_adv.cpu().numpy())
        if found.zero_gradients is not None:
            np.save(folder / "zero_gradients.npy", found.zero_gradients.cpu().numpy())

    folder = experiment.store.get("attacks", description, search).path
    x_adv, zero = (folder / name for name in ("x_adv.npy", "zero_gradients.npy"))
    return Found(_load(x_adv).to(x.device), _load(zero) if zero.exists() else None)


def _load(path: Path) -> Tensor:
    return torch.from_numpy(np.load(path, allow_pickle=False))


def _search(
    experiment: Experiment, trained: Trained, theta: Tensor, x: Tensor, epsilon: float
) -> Found:
    attack, ball = experiment.attack, experiment.ball(epsilon)
    generator = stream(experiment.seeds.evaluation, "attack", attack.name, str(epsilon))
    size = experiment.evaluation.batch_size
    # a posterior that is random draws from torch's own stream
    with draws_from(stream(experiment.seeds.evaluation, "attacked posterior", str(epsilon))):
        found = [
            attack.search(trained.posterior, b, t, ball, generator)
            for t, b in zip(theta.split(size), x.split(size), strict=True)
        ]
    blind = [f.zero_gradients for f in found if f.zero_gradients is not None]
    return Found(torch.cat([f.x_adv for f in found]), torch.cat(blind) if blind else None)


def digest(x: Tensor) -> str:
    """Return a hash of the numbers in a tensor."""
    return hashlib.sha256(np.ascontiguousarray(x.cpu().numpy()).tobytes()).hexdigest()
