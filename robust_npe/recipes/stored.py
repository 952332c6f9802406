"""What finished runs stored: trained estimators, and numbers of single observations."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from torch import Tensor

from robust_npe.commands.evaluation import perturbed
from robust_npe.commands.experiment import Experiment
from robust_npe.recipes.recipe import Recipe
from robust_npe.store import OBSERVATION_COLUMNS, Store, StoreError, read_table

__all__ = ["attacked", "divergences", "experiments"]


def experiments(recipes: Sequence[Recipe]) -> list[Experiment]:
    """Return the experiment of each run of some recipes, with its trained estimators.

    Raises:
        StoreError: Runs are missing; the message names the command that makes them.
    """
    return [job.stored() for recipe in recipes for job in recipe.require_runs()]


def attacked(experiment: Experiment, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return parameters `(B, D)`, x and x~ `(B, Dx)` of the observations that a finished run
    attacked at one radius."""
    theta, x = (t[: experiment.evaluation.num_attacked] for t in experiment.test_set)
    return theta, x, perturbed(experiment, experiment.trained(), theta, x, epsilon).x_adv


def divergences(experiment: Experiment, epsilon: float, metric: str = "kl_forward") -> pd.DataFrame:
    """Return the rows of a metric for each observation that a finished run attacked.

    Args:
        experiment: The run.
        epsilon: Radius in the run's unit.
        metric: A metric with a value for each observation.

    Raises:
        StoreError: The run is not finished, or did not measure that.
    """
    run_id = experiment.run_id
    run = Store(experiment.config["output_dir"]).find("runs", run_id)
    if run is None:
        raise StoreError(f"run {run_id} of {experiment.task.name} is missing or not finished")
    rows = read_table(run.path / "observations.csv", OBSERVATION_COLUMNS)
    rows = rows[(rows.metric == metric) & (rows.attack != "none") & (rows.epsilon == epsilon)]
    if rows.empty:
        raise StoreError(f"run {run_id} lacks {metric} at radius {epsilon:g}")
    return rows
