"""From what is handed over to a case: simulations, radii and what these are in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robust_npe.attacks import AutoUnit, Ball, ThreatModel, auto_unit
from robust_npe.attacks.auto_unit import REPLICATES
from robust_npe.auditing.case import Case
from robust_npe.auditing.settings import AuditSettings
from robust_npe.auditing.threat import checked_radii, unit_text
from robust_npe.checks import ConfigError, require
from robust_npe.config import epsilons
from robust_npe.posterior import Posterior
from robust_npe.random import stream
from robust_npe.tasks import DataTask, Task
from robust_npe.tasks.empirical import Empirical
from robust_npe.tasks.pairs import draw_pairs

__all__ = ["Given", "Rows", "check", "prepare"]

HELD_OUT = 0.4  # of the simulations, at most

Rows = Tensor | np.ndarray | Sequence[Any]


@dataclass(frozen=True)
class Given:
    """What is handed over for an audit.

    Attributes:
        posterior: Maps x `(B, Dx)` to a distribution over theta.
        x: The observations `(B, Dx)`.
        theta: The parameters that generated them, `(B, D)`, where they are known.
        task: Simulator, prior and names, where they are known.
        simulations: Pairs that the posterior was not trained on; None: those of the task.
        names: Those of the parameters, `theta`, and of the features, `x`, where there is no task.
        about: What is audited, in words: title and text.
    """

    posterior: Posterior
    x: Tensor
    theta: Tensor | None = None
    task: Task | None = None
    simulations: DataTask | None = None
    names: Mapping[str, Sequence[str] | None] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)


def check(given: Given, threat: ThreatModel, epsilon: Any) -> list[float]:
    """Return the radii, in ascending order, if what was handed over fits together.

    Args:
        given: What was handed over.
        threat: What the adversary may do.
        epsilon: Radius or radii; None for those of `epsilon_unit=auto`.

    Raises:
        ConfigError: Something does not fit.
    """
    task, x = _task(given), given.x
    if task is None and threat.epsilon_unit == "auto":
        raise ConfigError(
            "epsilon_unit=auto needs simulator or simulations to tell what a small change of x is: "
            "give one of them (task=... or simulations=... of the command), or say it: epsilon=0.1 "
            "and epsilon_unit=absolute for units of x."
        )
    threat.check(task)
    radii = checked_radii(epsilons(epsilon, threat.radii(task) if task else ()))
    what = given.posterior, x, given.theta, task
    Case(*what, None, None, radii, lambda e: threat.ball(e, task, x), "", names=given.names).check()
    return radii


def prepare(
    given: Given, threat: ThreatModel, epsilon: Any, settings: AuditSettings, seed: int
) -> Case:
    """Simulate what is needed, and tell what a radius is.

    Args:
        given: What was handed over.
        threat: As for `check`, which is called first.
        epsilon: See there.
        settings: How finely to measure.
        seed: Seed of everything that is random.
    """
    radii, task, x = check(given, threat, epsilon), _task(given), given.x
    reference, held_out = _simulated(task, given.simulations, settings, seed)
    unit = _auto(threat, task, held_out, seed)
    basis = x if held_out is None else held_out[1]

    def ball(radius: float | Tensor) -> Ball:
        return threat.ball(radius, task, basis, unit)

    about = {
        **given.about,
        "Observations": f"{len(x)} with {x.shape[1]} feature(s)",
        "Simulations": _told(reference, held_out),
    }
    what = given.posterior, x, given.theta, task, reference, held_out
    case = Case(*what, radii, ball, "", about, seed, given.names)
    return replace(case, unit=unit_text(threat, unit, radii, case.x_names, ball))


def _task(given: Given) -> Task | None:
    """Return what knows prior, names and perhaps the simulator."""
    task, data = given.task, given.simulations
    if data is None:
        return task
    if task is None or task is data:
        prior = getattr(given.posterior, "prior", None)  # as posteriors of sbi know theirs
        if prior is not None and isinstance(data.prior, Empirical) and not data.knows_support:
            data.prior = Empirical(data.prior.theta, prior.support)
        return data
    for name in ("dim_theta", "dim_x"):
        expected = f"{getattr(task, name)}, as in task {task.name}"
        require(
            getattr(data, name) == getattr(task, name), f"{name} of the simulations",
            getattr(data, name), expected,
        )  # fmt: skip
    return task


def _simulated(
    task: Task | None, simulations: DataTask | None, settings: AuditSettings, seed: int
) -> tuple[Tensor | None, tuple[Tensor, Tensor] | None]:
    """Return simulations that "typical" is learned from, and others with their parameters."""
    if task is None:
        return None, None
    wanted, generator = settings.num_simulations + settings.num_held_out, ("audit", "simulations")
    if simulations is None:
        theta, x, _ = draw_pairs(task, wanted, stream(seed, *generator))
    else:
        theta, x = simulations.some_pairs(wanted, stream(seed, *generator))
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
        theta, x = theta[:REPLICATES], x[:REPLICATES]
        again = torch.as_tensor(task.simulate(theta, stream(seed, "audit", "replicates"))).cpu()
    return auto_unit(threat.norm, x, again)


def _told(reference: Tensor | None, held_out: tuple[Tensor, Tensor] | None) -> str:
    if reference is None or held_out is None:
        return "none"
    return f"{len(reference)} to learn what is typical from, {len(held_out[1])} others to test"
