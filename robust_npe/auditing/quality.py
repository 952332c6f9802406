"""How good the posterior is on simulations that nobody perturbed."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from robust_npe.auditing.case import Case
from robust_npe.auditing.settings import AuditSettings
from robust_npe.metrics import NLL, Context, Coverage, InformationGain, Leakage, Metric
from robust_npe.metrics.summary import summary_rows
from robust_npe.posterior import as_events, log_prob, posterior_at
from robust_npe.random import draws_from

__all__ = ["quality"]


def quality(case: Case, settings: AuditSettings) -> pd.DataFrame:
    """Return tidy measurements on held-out simulations: `metric`, `statistic`, `level`, `value`.

    `nll`, `coverage`, `information_gain` over the prior where its density is known, `leakage` where its support is; and
    `gain_over_other_x` = log q(theta|x) - log q(theta|x') with x' of another pair: zero for a
    posterior that does not look at x, and is perfectly robust. Empty without held-out simulations.
    """
    columns = ["metric", "statistic", "level", "value"]
    if case.held_out is None or case.task is None:
        return pd.DataFrame(columns=columns)
    theta, x = (part[: settings.num_held_out] for part in case.held_out)
    context = Context(
        case.task, case.over_theta, theta, x, x, False, case.seed, settings.batch_size
    )
    metrics: list[Metric] = [NLL(), Coverage(), InformationGain(), Leakage(200)]
    rows = []
    with draws_from(case.generator("quality")):
        for measurement in (m for metric in metrics for m in metric(context)):
            rows += [{"metric": measurement.metric, **row} for row in measurement.rows]
        if len(x) > 1:
            gain = _gain_over_other_x(case, theta, x, settings.batch_size)
            rows += [{"metric": "gain_over_other_x", **row} for row in summary_rows(gain)]
    return pd.DataFrame(rows, columns=columns)


@torch.no_grad()
def _gain_over_other_x(case: Case, theta: Tensor, x: Tensor, size: int) -> Tensor:
    def log_q(x: Tensor) -> Tensor:
        parts = []
        for t, rows in zip(theta.split(size), x.split(size), strict=True):
            q = posterior_at(case.over_theta, rows)
            parts.append(log_prob(q, as_events(q, t)))
        return torch.cat(parts)

    # a density that excludes theta is worse than any, and one that is infinite twice says nothing
    return log_q(x) - log_q(x.roll(1, 0))
