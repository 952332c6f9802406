"""Attack a trained estimator at every radius and measure; the result is tidy tables."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from robust_npe.attacks import Found
from robust_npe.commands.experiment import Experiment, Trained
from robust_npe.metrics import Context, Measurement
from robust_npe.random import stream
from robust_npe.store import OBSERVATION_COLUMNS, RESULT_COLUMNS, write_table

__all__ = ["attacked", "evaluate"]

log = logging.getLogger(__name__)


def evaluate(experiment: Experiment, trained: Trained, run_id: str, folder: Path) -> pd.DataFrame:
    """Measure on clean and on attacked observations and write both tables.

    Args:
        experiment: What to evaluate.
        trained: The estimator.
        run_id: Identity of the run, the first column of both tables.
        folder: Where `results.csv` and `observations.csv` go.

    Returns:
        The table of results.
    """
    keys = _run_keys(experiment, trained, run_id)
    results: list[dict[str, Any]] = [_diverged_row(keys, experiment, trained)]
    observations: list[pd.DataFrame] = []
    steps = _contexts(experiment, trained)
    hidden = not sys.stderr.isatty()
    for columns, context, found in tqdm(
        steps, total=len(experiment.epsilons) + 1, desc="evaluate", disable=hidden
    ):
        results += _zero_gradient_rows({**keys, **columns}, found)
        for metric in experiment.metrics.values():
            for measurement in metric(context):
                shared = {**keys, **columns, "metric": measurement.metric}
                results += [{**shared, **row} for row in measurement.rows]
                observations += _per_observation(shared, measurement)
    write_table(pd.concat(observations), folder / "observations.csv", OBSERVATION_COLUMNS)
    return write_table(results, folder / "results.csv", RESULT_COLUMNS)


def _run_keys(experiment: Experiment, trained: Trained, run_id: str) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "task": experiment.task.name,
        "estimator": trained.estimator.name,
        "defense": experiment.defense.name,
        "beta": experiment.defense.beta,
        "defense_epsilon": experiment.defense.epsilon,
        "num_simulations": experiment.config["num_simulations"],
        "seed": experiment.seed,
        "epsilon_unit": experiment.threat.epsilon_unit,
    }


def _clean_columns() -> dict[str, Any]:
    empty = dict.fromkeys(("norm", "objective", "attack_settings", "domain"), "")
    return {"attack": "none", **empty, "epsilon": 0.0, "epsilon_abs": 0.0}


def _diverged_row(keys: dict[str, Any], experiment: Experiment, trained: Trained) -> dict[str, Any]:
    measured = {"metric": "training", "statistic": "diverged", "value": float(trained.diverged)}
    return {**keys, **_clean_columns(), **measured, "level": None}


def _zero_gradient_rows(shared: dict[str, Any], found: Found | None) -> list[dict[str, Any]]:
    if found is None or found.zero_gradients is None:
        return []
    share = float(found.zero_gradients.double().mean())
    measured = {"metric": "attack", "statistic": "zero_gradient_fraction", "value": share}
    return [{**shared, **measured, "level": None}]


def _contexts(
    experiment: Experiment, trained: Trained
) -> Iterator[tuple[dict[str, Any], Context, Found | None]]:
    """Yield the clean context, on the whole test set, then one context for each radius."""
    theta, x = experiment.test_set
    size = experiment.evaluation.batch_size
    shared = (experiment.task, trained.estimator)
    yield _clean_columns(), Context(*shared, theta, x, x, False, experiment.seed, size), None

    count = experiment.evaluation.num_attacked
    unit = experiment.threat.unit(experiment.task, x)
    for epsilon in experiment.epsilons:
        columns = {
            "attack": experiment.attack.name,
            "norm": experiment.threat.norm,
            "objective": getattr(getattr(experiment.attack, "objective", None), "name", ""),
            "attack_settings": experiment.attack_settings,
            "domain": experiment.threat.domain,
            "epsilon": epsilon,
            "epsilon_abs": epsilon * unit,
        }
        pairs = theta[:count], x[:count]
        found = attacked(experiment, trained, *pairs, epsilon)
        context = Context(*shared, *pairs, found.x_adv, True, experiment.seed, size)
        yield columns, context, found


def attacked(
    experiment: Experiment, trained: Trained, theta: Tensor, x: Tensor, epsilon: float
) -> Found:
    """Attack observations; units and domain come from the test set.

    Args:
        experiment: What is evaluated.
        trained: The estimator that is attacked.
        theta: The parameters that generated x, shape `(B, D)`.
        x: Clean observations, shape `(B, Dx)`. The same batch gives the same result.
        epsilon: Radius in `epsilon_unit`.

    Returns:
        What the attack found, x~ of shape `(B, Dx)`.
    """
    attack = experiment.attack
    ball = experiment.threat.ball(epsilon, experiment.task, experiment.test_set[1])
    generator = stream(experiment.seed, "attack", attack.name, str(epsilon))
    size = experiment.evaluation.batch_size
    batches = zip(theta.split(size), x.split(size), strict=True)
    found = [attack.search(trained.estimator, b, t, ball, generator) for t, b in batches]
    zero = [part.zero_gradients for part in found if part.zero_gradients is not None]
    return Found(torch.cat([part.x_adv for part in found]), torch.cat(zero) if zero else None)


def _per_observation(shared: dict[str, Any], measurement: Measurement) -> list[pd.DataFrame]:
    if measurement.per_observation is None:
        return []
    values = measurement.per_observation.double().cpu().numpy()
    return [pd.DataFrame({**shared, "observation": range(len(values)), "value": values})]
