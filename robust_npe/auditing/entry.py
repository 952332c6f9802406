"""`rn.audit`: from a posterior, observations and what else is known to a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from robust_npe.adapters import as_posterior
from robust_npe.attacks import (
    Attack,
    AutoUnit,
    Ball,
    KLForward,
    StandardEvaluation,
    ThreatModel,
    auto_unit,
)
from robust_npe.attacks.auto_unit import REPLICATES
from robust_npe.auditing.case import Case, checked_rows
from robust_npe.auditing.report import Report
from robust_npe.auditing.run import examine
from robust_npe.auditing.settings import AuditSettings
from robust_npe.auditing.threat import checked_radii, unit_text
from robust_npe.checks import ConfigError, require
from robust_npe.config import epsilons
from robust_npe.posterior import Posterior
from robust_npe.random import stream
from robust_npe.tasks import DataTask, FunctionTask, Task
from robust_npe.tasks.pairs import draw_pairs

__all__ = ["audit"]

HELD_OUT = 0.4  # of the simulations, at most

Rows = Tensor | np.ndarray | Sequence[Any]


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

    Returns:
        Tables, a verdict, and `save(folder)`.

    Raises:
        ConfigError: The arguments do not fit each other; raised before any work is done.
    """
    posterior = as_posterior(posterior)
    settings = settings or AuditSettings()
    rows = checked_rows("x", x)
    truth = None if theta is None else checked_rows("theta", theta)
    threat = ThreatModel(norm, epsilon_unit, "none" if simulator is None else "task")
    task = _task(simulator, prior, simulations, theta_names, x_names)
    radii = _radii(threat, task, epsilon)
    given = posterior, rows, truth, task
    names = Case(*given, None, None, radii, lambda e: threat.ball(e, task, rows), "").check()
    case = _case(given, threat, radii, names, simulations, settings, seed)
    return examine(case, method or StandardEvaluation(KLForward()), settings)


def _radii(
    threat: ThreatModel, task: Task | None, epsilon: float | Sequence[float] | None
) -> list[float]:
    if task is None and threat.epsilon_unit == "auto":
        raise ConfigError(
            "epsilon_unit=auto needs simulator or simulations to tell what a small change of x is: "
            'give one of them, or say it: epsilon=0.1, epsilon_unit="absolute" for units of x.'
        )
    return checked_radii(epsilons(epsilon, threat.radii(task) if task else ()))


def _case(
    given: tuple[Posterior, Tensor, Tensor | None, Task | None],
    threat: ThreatModel,
    radii: Sequence[float],
    names: Sequence[str],
    simulations: tuple[Rows, Rows] | None,
    settings: AuditSettings,
    seed: int,
) -> Case:
    """Simulate what is needed, and tell what a radius is."""
    posterior, rows, _, task = given
    reference, held_out = _simulated(task, simulations, settings, seed)
    basis = rows if held_out is None else held_out[1]
    unit = _auto(threat, task, held_out, seed)

    def ball(radius: float | Tensor) -> Ball:
        return threat.ball(radius, task, basis, unit)

    text = unit_text(threat, unit, radii, names, ball)
    about = {
        "Posterior": _name(posterior),
        "Observations": f"{len(rows)}, with {rows.shape[1]} feature(s)",
        "Simulations": _told(reference, held_out),
    }
    return Case(*given, reference, held_out, radii, ball, text, about, seed)


def _task(
    simulator: Task | Callable[[Any], Any] | None,
    prior: Distribution | None,
    simulations: tuple[Rows, Rows] | None,
    theta_names: Sequence[str] | None,
    x_names: Sequence[str] | None,
) -> Task | None:
    names = {"theta_names": theta_names, "x_names": x_names}
    if isinstance(simulator, Task):
        own = prior is None and not any(names.values())
        require(own, "simulator", simulator.name, "alone: a task has its own prior and names")
        return simulator
    if simulator is not None:
        return FunctionTask(simulator, prior, **names)  # type: ignore[arg-type]
    if simulations is None:
        require(prior is None, "prior", prior, "given with simulator or simulations")
        return None
    task = DataTask(*(torch.as_tensor(part) for part in simulations), **names)  # type: ignore[arg-type]
    if prior is not None:
        task.prior, task.prior_density = prior, True
    return task


def _simulated(
    task: Task | None, simulations: tuple[Rows, Rows] | None, settings: AuditSettings, seed: int
) -> tuple[Tensor | None, tuple[Tensor, Tensor] | None]:
    """Return simulations that "typical" is learned from, and others with their parameters."""
    if task is None:
        return None, None
    wanted = settings.num_simulations + settings.num_held_out
    if simulations is None:
        theta, x, _ = draw_pairs(task, wanted, stream(seed, "audit", "simulations"))
    else:
        theta, x = (torch.as_tensor(part).float().flatten(1) for part in simulations)
        finite = x.isfinite().all(1) & theta.isfinite().all(1)
        theta, x = theta[finite][:wanted], x[finite][:wanted]
    require(len(x) > 1, "number of finite simulations", len(x), "at least 2")
    held = max(1, min(settings.num_held_out, int(HELD_OUT * len(x))))
    return x[held:], (theta[:held], x[:held])


def _auto(
    threat: ThreatModel, task: Task | None, held_out: tuple[Tensor, Tensor] | None, seed: int
) -> AutoUnit | None:
    """Return what `epsilon_unit=auto` is; None for other units."""
    if threat.epsilon_unit != "auto" or held_out is None or task is None:
        return None
    theta, x = held_out
    again = None
    if task.knows("simulate"):
        again = task.simulate(theta[:REPLICATES], stream(seed, "audit", "replicates")).cpu()
    return auto_unit(threat.norm, x, again)


def _told(reference: Tensor | None, held_out: tuple[Tensor, Tensor] | None) -> str:
    if reference is None or held_out is None:
        return "none"
    return f"{len(reference)} to learn what is typical from, {len(held_out[1])} others to test"


def _name(posterior: Posterior) -> str:
    own = getattr(posterior, "name", None) or getattr(posterior, "__name__", None)
    return str(own or type(posterior).__name__)
