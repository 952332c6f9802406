"""Whether the attack of an audit is to be believed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from robust_npe.attacks import Attack, Found, Noise
from robust_npe.auditing.case import Case
from robust_npe.auditing.movement import Attacked
from robust_npe.auditing.settings import AuditSettings
from robust_npe.metrics import Context
from robust_npe.metrics.soundness import FLAGS, Soundness
from robust_npe.metrics.summary import row

__all__ = ["beaten_by_noise", "soundness"]


def soundness(
    case: Case,
    attack: Attack,
    results: Sequence[Attacked],
    table: pd.DataFrame,
    settings: AuditSettings,
) -> pd.DataFrame:
    """Return the measurements behind the flags of `robust_npe.metrics.Soundness`, and `noise` (see
    `beaten_by_noise`), one row for each radius and statistic; of observations at which the
    divergence is known.

    Args:
        case: What is audited.
        attack: What searched for x~.
        results: What it found.
        table: From `moved`.
        settings: How finely to measure.
    """
    count = min(settings.num_attacked, len(case.x))
    x, kept, rows = case.x[:count], dict[str, Any](), list[dict[str, Any]]()
    theta = case.draws(x, 1)[0] if case.theta is None else case.theta[:count]  # not looked at then
    for result in (r for r in results if r.attack == attack.name):
        task: Any = case.task  # not looked at
        own = table[(table.attack == result.attack) & (table.epsilon == result.epsilon)]
        known = torch.tensor(own.kl_forward.notna().to_numpy())
        if not known.any():
            continue
        zero = result.found.zero_gradients
        found = Found(result.x_adv[known], None if zero is None else zero[known])
        given = task, case.posterior, theta[known], x[known], found.x_adv, True, case.seed
        threat = attack, case.ball, result.epsilon, found, kept
        context = Context(*given, settings.batch_size, *threat)
        measured = [r for measurement in Soundness()(context) for r in measurement.rows]
        beaten = beaten_by_noise(table, attack.name, result.epsilon, settings.num_samples)
        if not math.isnan(beaten):
            measured.append(row("noise", beaten))
            if FLAGS["noise"].fires(beaten):
                flagged = next(r for r in measured if r["statistic"] == "flagged")
                flagged["value"] += 1
        rows += [{"epsilon": result.epsilon, "metric": "soundness", **r} for r in measured]
    return pd.DataFrame(rows, columns=["epsilon", "metric", "statistic", "level", "value"])


def beaten_by_noise(table: pd.DataFrame, attack: str, epsilon: float, num_samples: int) -> float:
    """Return how many times as far as an attack random noise moves the posterior at a radius: the
    median KL or the median shift of the mean, whichever is worse. Beyond 1 only by more than two
    standard errors; NaN where neither moves it.

    Args:
        table: From `robust_npe.auditing.movement.moved`.
        attack: Its name.
        epsilon: The radius.
        num_samples: Posterior samples behind a mean.
    """
    there = table[table.epsilon == epsilon]
    own, noise = (there[there.attack == name] for name in (attack, Noise.name))
    errors = {"kl_forward": noise.kl_forward_se.median(), "mean_shift": math.sqrt(2 / num_samples)}
    ratios = []
    for measure, error in errors.items():
        found, beside = own[measure].median(), noise[measure].median()
        if found > 0 or beside > 0:
            ratio = beside / found if found > 0 else math.inf
            ratios.append(ratio if beside - found > 2 * error else min(ratio, 1.0))
    return max(ratios, default=math.nan)
