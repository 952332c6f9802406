"""Does an attack fit the task and the posterior of an experiment? Asked before any work."""

from __future__ import annotations

import torch

from robust_npe.attacks import Attack, settings
from robust_npe.checks import require
from robust_npe.config import Evaluation
from robust_npe.posterior import Posterior
from robust_npe.tasks.base import Task

__all__ = ["check_attack", "check_target"]


def check_attack(attack: Attack, task: Task) -> None:
    """Raise a `ConfigError` where an attack needs what the task has not."""
    settings(attack)  # tables will show them: better to fail before training
    attack.check(task.dim_theta)
    without = f"one that needs no theta: task={task.name} has observations alone"
    possible = task.has_theta or not attack.needs_theta
    what = "objective" if hasattr(attack, "objective") else "attack"
    require(possible, what, getattr(attack, what, attack).name, without)


def check_target(attack: Attack, posterior: Posterior, dim_x: int, evaluation: Evaluation) -> None:
    """Raise a `ConfigError` where an attack does not fit the kind of posterior, or batches of the
    sizes that are going to be attacked.

    Args:
        attack: The attack.
        posterior: What is going to be attacked, trained or not.
        dim_x: Number of features of an observation.
        evaluation: How many observations are attacked, and how many at a time.
    """
    attacked = min(evaluation.num_attacked or evaluation.num_test, evaluation.num_test)
    for size in {min(attacked, evaluation.batch_size), attacked % evaluation.batch_size} - {0}:
        attack.check_posterior(posterior, torch.zeros(size, dim_x))
