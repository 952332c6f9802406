"""From a case to a report: everything that an audit measures, in order."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from robust_npe.attacks import Attack
from robust_npe.attacks import settings as attack_settings
from robust_npe.auditing.case import Case
from robust_npe.auditing.findings import number
from robust_npe.auditing.keeping import Keep, at_once, kept_table
from robust_npe.auditing.movement import (
    CLEAN,
    Attacked,
    attacked,
    minimal,
    moved,
    summaries,
)
from robust_npe.auditing.predictive import predictive
from robust_npe.auditing.quality import quality
from robust_npe.auditing.report import Report
from robust_npe.auditing.sensitivity import sensitivity
from robust_npe.auditing.settings import AuditSettings
from robust_npe.auditing.soundness import soundness
from robust_npe.auditing.typicality import typicality
from robust_npe.checks import ConfigError

__all__ = ["check_theta", "examine"]

log = logging.getLogger(__name__)

NUM_DRAWN = 400  # posterior samples in pictures


def examine(case: Case, attack: Attack, settings: AuditSettings, keep: Keep = at_once) -> Report:
    """Measure everything that applies to a case.

    Args:
        case: A posterior at observations.
        attack: What searches for x~. An objective that needs theta needs those of the case.
        settings: How finely to measure.
        keep: Keeps what takes long, for an audit that is interrupted.

    Raises:
        ConfigError: Posterior, observations and attack do not fit each other; raised before any
            work is done.
    """
    case.check()
    _require_fits(case, attack)
    if len(case.x) > settings.num_attacked:
        log.warning(
            "%d of %d observations are attacked: audit.num_attacked",
            settings.num_attacked,
            len(case.x),
        )
    tables = {
        "quality": quality(case, settings),
        "typicality": kept_table(keep, "typicality", partial(typicality, case, settings)),
    }
    log.info("attacking %d observations ...", min(settings.num_attacked, len(case.x)))
    results = attacked(case, attack, settings, keep)
    table = moved(case, results, settings, keep)
    tables |= {
        "attacks": table,
        "posterior": summaries(case, results, settings),
        "minimal_radius": kept_table(keep, "minimal", partial(minimal, case, table, settings)),
        "soundness": soundness(case, attack, results, table, settings),
        "sensitivity": sensitivity(case, settings),
        "threat": _threat(case),
    }
    pictured = _worst(table, attack.name, settings.num_pictured)
    tables["predictive"] = predictive(case, results, attack.name, pictured, settings)
    tables |= _pictured(case, results, attack.name, pictured)
    about = {**case.about, "Attack": f"{attack.name} {attack_settings(attack)}".strip()}
    if "effective_draws" in table:
        about["Prior draws"] = _told_draws(table)
    return Report(tables, attack.name, case.unit, about, case.task)


def check_theta(attack: Attack, theta: Tensor | None) -> None:
    """Raise a `ConfigError` where an attack needs parameters that are not known."""
    if theta is None and attack.needs_theta:
        name = getattr(getattr(attack, "objective", attack), "name", attack.name)
        raise ConfigError(
            f"{name} needs the parameters that generated x: give theta, or choose "
            "objective=kl_forward."
        )


def _require_fits(case: Case, attack: Attack) -> None:
    """Raise where attack and parameters do not fit, or it needs parameters that are not known."""
    attack.check(len(case.theta_names))
    objective = getattr(attack, "objective", None)
    if objective is None:
        return
    theta = None if case.theta is None else case.theta[:2]
    try:
        objective(case.posterior, case.x[:2], theta, case.generator("trial"))(case.x[:2])
    except ValueError as error:
        if isinstance(error, ConfigError) or theta is not None:
            raise
        raise ConfigError(f"{error} Give theta, or choose objective=kl_forward.") from error


def _threat(case: Case) -> pd.DataFrame:
    """Return how far a single feature may move at each radius, in units of x."""
    frames = []
    for epsilon in case.epsilons:
        move = case.ball(epsilon).radius * case.scale.double()
        columns = {"epsilon": epsilon, "feature": case.x_names, "largest_move": move.tolist()}
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def _told_draws(table: pd.DataFrame) -> str:
    """Say how many draws from the prior carry the posterior, at x and at x~."""
    clean, moved = (
        table[rows].effective_draws for rows in (table.attack == CLEAN, table.attack != CLEAN)
    )
    return (
        f"the posterior is a weighting of draws from the prior; {number(clean.median())} of them "
        f"carry it at x (effective sample size, median; at least {number(clean.min())}), "
        f"{number(moved.median())} at x~ (at least {number(moved.min())})"
    )


def _worst(table: pd.DataFrame, attack: str, count: int) -> list[int]:
    """Return the observations that the attack moves most at the largest radius."""
    rows = table[(table.attack == attack) & (table.epsilon == table.epsilon.max())]
    values = rows.set_index("observation").kl_forward.fillna(math.inf)
    return values.sort_values(ascending=False, kind="stable").index[:count].tolist()


def _pictured(
    case: Case, results: Sequence[Attacked], attack: str, observations: Sequence[int]
) -> dict[str, pd.DataFrame]:
    """Return what pictures show: features of x and x~, samples of the posteriors, and the truth."""
    changed: list[pd.DataFrame] = []
    draws: list[pd.DataFrame] = []
    stages = {0.0: case.x} | {r.epsilon: r.x_adv for r in results if r.attack == attack}
    for i in observations:
        for epsilon, rows in stages.items():
            shared = {"observation": i, "epsilon": epsilon}
            x = rows[i : i + 1]
            changed.append(
                pd.DataFrame({**shared, "feature": case.x_names, "value": x[0].tolist()})
            )
            samples = case.draws(x, NUM_DRAWN)[:, 0].double()
            draws.append(pd.DataFrame(samples.numpy(), columns=case.theta_names).assign(**shared))
    truth = pd.DataFrame(columns=["observation", *case.theta_names])
    if case.theta is not None and observations:
        rows = case.theta[torch.tensor(observations)].double()
        truth = pd.DataFrame(rows.numpy(), columns=case.theta_names)
        truth.insert(0, "observation", list(observations))
    empty = pd.DataFrame(columns=["observation", "epsilon"])
    return {
        "x": pd.concat(changed, ignore_index=True) if changed else empty,
        "draws": pd.concat(draws, ignore_index=True) if draws else empty,
        "truth": truth,
    }
