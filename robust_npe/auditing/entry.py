"""`rn.audit`: from a posterior, observations and what else is known to a report."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor
from torch.distributions import Distribution

from robust_npe.adapters import as_posterior
from robust_npe.attacks import Attack, KLForward, StandardEvaluation, ThreatModel
from robust_npe.auditing.case import checked_rows
from robust_npe.auditing.preparing import Given, Rows, prepare
from robust_npe.auditing.report import Report
from robust_npe.auditing.run import check_theta, examine
from robust_npe.auditing.settings import AuditSettings
from robust_npe.checks import ConfigError, require, require_positive_integer
from robust_npe.posterior import Posterior
from robust_npe.tasks import DataTask, FunctionTask, Task
from robust_npe.threads import torch_threads

__all__ = ["audit"]

SETTING = re.compile(r"\btask\.(theta_names|x_names|theta|x|prior|simulator|vectorized=false)\b")
ARGUMENTS = {
    "theta": "simulations[0]",
    "x": "simulations[1]",
    "vectorized=false": "simulator=rn.tasks.FunctionTask(..., vectorized=False)",
}


def audit(
    posterior: Posterior,
    x: Rows,
    theta: Rows | None = None,
    simulator: Task | Callable[[Any], Any] | None = None,
    prior: Distribution | None = None,
    simulations: tuple[Rows, Rows] | None = None,
    epsilon: float | Sequence[float] | None = None,
    norm: str = "l2",
    epsilon_unit: str = "auto",
    method: Attack | None = None,
    theta_names: Sequence[str] | None = None,
    x_names: Sequence[str] | None = None,
    settings: AuditSettings | None = None,
    seed: int = 0,
    threads: int = 1,
) -> Report:
    """Examine a posterior at your observations: can it be trusted there?

    What is left out is not measured: without `simulations` and `simulator` nothing is said about
    quality and typicality, and `epsilon` must be given in units of x.

    Args:
        posterior: Any map from x `(B, Dx)` to a distribution over theta with batch shape `(B,)`, or
            what `robust_npe.as_posterior` makes one of: posteriors of sbi, flows of zuko, ...
        x: One observation `(Dx,)` or several, `(B, Dx)`.
        theta: The parameters that generated x, `(B, D)`, if known.
        simulator: A task, or a function as `robust_npe.tasks.FunctionTask` takes it, which then
            needs `prior`.
        prior: Distribution over theta with event shape `(D,)`.
        simulations: Parameters `(N, D)` and observations `(N, Dx)` that the posterior was not
            trained on; new ones from the simulator if None.
        epsilon: Radius or radii in `epsilon_unit`; None for those of `auto`.
        norm: `l1`, `l2` or `linf`.
        epsilon_unit: See `robust_npe.attacks.ThreatModel`.
        method: The attack; None for the standard evaluation.
        theta_names: Names of the parameters; None for those of the task.
        x_names: Names of the features.
        settings: How finely to measure.
        seed: Seed of everything that is random.
        threads: Threads of torch meanwhile; more are faster for large networks only.

    Returns:
        Tables, a verdict, and `save(folder)`.

    Raises:
        ConfigError: The arguments do not fit each other; raised before any work is done.
    """
    require_positive_integer("threads", threads)
    settings, method = settings or AuditSettings(), method or StandardEvaluation(KLForward())
    for name, value, kind in (("settings", settings, AuditSettings), ("method", method, Attack)):
        require(isinstance(value, kind), name, value, f"an object of class {kind.__name__}")
    posterior = as_posterior(posterior)
    names = {"theta": theta_names, "x": x_names}
    with _as_arguments(), torch_threads(threads):
        data = _data(simulations, prior if simulator is None else None, names)
        rows = checked_rows("x", x), None if theta is None else checked_rows("theta", theta)
        about = {"Posterior": _name(posterior)}
        given = Given(posterior, *rows, _task(simulator, prior, data, names), data, names, about)
        threat = ThreatModel(norm, epsilon_unit, "none" if simulator is None else "task")
        check_theta(method, given.theta)
        return examine(prepare(given, threat, epsilon, settings, seed), method, settings)


@contextmanager
def _as_arguments() -> Iterator[None]:
    """Let errors name arguments of `audit`, where tasks name settings of the command line."""
    try:
        yield
    except ConfigError as error:
        told = SETTING.sub(lambda found: ARGUMENTS.get(found[1], found[1]), str(error))
        raise ConfigError(told) from error


def _data(
    simulations: tuple[Rows, Rows] | None,
    prior: Distribution | None,
    names: Mapping[str, Sequence[str] | None],
) -> DataTask | None:
    """Return simulations as a task, of which the prior may be known."""
    if simulations is None:
        return None
    found = f"{type(simulations).__name__}"
    pair = False
    if isinstance(simulations, Sequence):
        found, pair = f"{found} of {len(simulations)}", len(simulations) == 2
    require(pair, "simulations", found, "a pair: parameters (N, D) and observations (N, Dx)")
    theta, x = (part if isinstance(part, Tensor) else np.asarray(part) for part in simulations)
    data = DataTask(theta, x, theta_names=names["theta"], x_names=names["x"])
    if prior is not None:
        data.prior, data.prior_density = prior, True
    return data


def _task(
    simulator: Task | Callable[[Any], Any] | None,
    prior: Distribution | None,
    data: DataTask | None,
    names: Mapping[str, Sequence[str] | None],
) -> Task | None:
    if isinstance(simulator, Task):
        own = prior is None and not any(names.values())
        require(own, "simulator", simulator.name, "alone: a task has its own prior and names")
        return simulator
    if simulator is not None:
        require(prior is not None, "prior", prior, "a distribution, as simulator is a function")
        return FunctionTask(simulator, prior, theta_names=names["theta"], x_names=names["x"])
    require(
        data is not None or prior is None, "prior", prior, "given with simulator or simulations"
    )
    return data


def _name(posterior: Posterior) -> str:
    own = getattr(posterior, "name", None) or getattr(posterior, "__name__", None)
    return str(own or type(posterior).__name__)
