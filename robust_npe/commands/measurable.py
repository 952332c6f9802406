"""Whether anything that was chosen can be measured, told before the work."""

from __future__ import annotations

from collections.abc import Mapping

from robust_npe.checks import ConfigError
from robust_npe.metrics import Metric
from robust_npe.posterior import Posterior
from robust_npe.tasks import Task

__all__ = ["check_metrics"]

THETA = "parameters that generated x"


def check_metrics(
    metrics: Mapping[str, Metric], task: Task, estimator: Posterior, defense: str
) -> None:
    """Raise a `ConfigError` where metrics were chosen, and none of them applies.

    Args:
        metrics: By name.
        task: The task.
        estimator: What will be trained.
        defense: Name of the defense.
    """
    lacking = {}
    for name, metric in metrics.items():
        unknown = metric.needs_theta and not task.has_theta
        lacking[name] = THETA if unknown else metric.missing(task, estimator, defense)
    if lacking and all(lacking.values()):
        needs = "; ".join(f"{name} needs {what}" for name, what in lacking.items())
        raise ConfigError(
            f"metric=[{','.join(lacking)}] measures nothing of task={task.name} here: {needs}."
        )
