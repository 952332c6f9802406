"""How good the posterior is on simulations that nobody perturbed."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import Tensor

from robust_npe.auditing.case import Case
from robust_npe.auditing.settings import AuditSettings
from robust_npe.metrics import NLL, Context, Coverage, InformationGain, Leakage, Metric
from robust_npe.metrics.summary import row, summary_rows
from robust_npe.posterior import as_events, log_prob, posterior_at
from robust_npe.random import draws_from

__all__ = ["quality"]


def quality(case: Case, settings: AuditSettings) -> pd.DataFrame:
    """Return tidy measurements on held-out simulations: `metric`, `statistic`, `level`, `value`.

    `nll`, `coverage`, `information_gain` over the prior where its density is known, `leakage` where
    its support is; and `gain_over_other_x` = log q(theta|x) - log q(theta|x') with x' of another
    pair: zero for a posterior that does not look at x, and is perfectly robust. `no_density` is the
    share of pairs at which log q(theta|x) is NaN: the others are without them. Empty without
    held-out simulations.
    """
    columns = ["metric", "statistic", "level", "value"]
    if case.held_out is None or case.task is None:
        return pd.DataFrame(columns=columns)
    theta, x = (part[: settings.num_held_out] for part in case.held_out)
    size, rows = settings.batch_size, list[dict[str, Any]]()
    with draws_from(case.generator("density")):
        known = ~_log_q(case, theta, x, size).isnan()
    share = 1 - known.sum().item() / len(known)
    rows.append({"metric": "no_density", **row("mean", share)})
    theta, x = theta[known], x[known]
    if not len(x):
        return pd.DataFrame(rows, columns=columns)
    context = Context(case.task, case.over_theta, theta, x, x, False, case.seed, size)
    metrics: list[Metric] = [NLL(), Coverage(), InformationGain(), Leakage(200)]
    with draws_from(case.generator("quality")):
        for measurement in (m for metric in metrics for m in metric(context)):
            rows += [{"metric": measurement.metric, **r} for r in measurement.rows]
        if len(x) > 1:
            # a density that excludes theta is worse than any; infinite twice, it says nothing
            gain = _log_q(case, theta, x, size) - _log_q(case, theta, x.roll(1, 0), size)
            rows += [{"metric": "gain_over_other_x", **r} for r in summary_rows(gain)]
    return pd.DataFrame(rows, columns=columns)


@torch.no_grad()
def _log_q(case: Case, theta: Tensor, x: Tensor, size: int) -> Tensor:
    """Return log q(theta|x) of pairs, `(B,)`."""
    parts = []
    for t, rows in zip(theta.split(size), x.split(size), strict=True):
        q = posterior_at(case.over_theta, rows)
        parts.append(log_prob(q, as_events(q, t)).cpu())
    return torch.cat(parts)
