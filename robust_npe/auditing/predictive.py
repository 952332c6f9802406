"""What simulations from the posterior look like, at x and at the worst x~."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from robust_npe.attacks import Found
from robust_npe.auditing.case import Case
from robust_npe.auditing.movement import CLEAN, Attacked
from robust_npe.auditing.settings import AuditSettings
from robust_npe.random import draws_from

__all__ = ["predictive"]

QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}


def predictive(
    case: Case,
    results: Sequence[Attacked],
    attack: str,
    observations: Sequence[int],
    settings: AuditSettings,
) -> pd.DataFrame:
    """Return quantiles of each feature of simulations from q(.|x) (radius 0) and q(.|x~): one row
    for each observation, radius and feature. `given` is what the posterior saw, `inside` whether
    that lies within the central 90 % of the simulations, and `inside_clean` whether x does. Failed
    simulations are left out.

    Args:
        case: What is audited; the table is empty where its task cannot simulate.
        results: What attacks found.
        attack: The one whose x~ are meant.
        observations: Which observations.
        settings: How finely to measure.
    """
    columns = ["observation", "epsilon", "feature", "given", *QUANTILES, "inside", "inside_clean"]
    task, count = case.task, settings.num_predictive
    if task is None or not task.knows("simulate") or not count:
        return pd.DataFrame(columns=columns)
    rows: list[dict[str, Any]] = []
    chosen = [Attacked(CLEAN, 0.0, Found(case.x))] + [r for r in results if r.attack == attack]
    for i in observations:
        for result in chosen:
            given = result.x_adv[i]
            theta = case.draws(given.unsqueeze(0), count)[:, 0].float()
            with draws_from(case.generator("predictive posterior")):
                x = task.simulate(theta, case.generator("predictive")).double()
            x = x[x.isfinite().all(1)]
            if len(x) > count // 2:
                shared = {"observation": i, "epsilon": result.epsilon}
                rows += [shared | row for row in _features(case, x, given, case.x[i])]
    return pd.DataFrame(rows, columns=columns)


def _features(case: Case, x: Tensor, given: Tensor, clean: Tensor) -> list[dict[str, Any]]:
    levels = torch.tensor([*QUANTILES.values()], dtype=x.dtype)
    edges = torch.quantile(x, levels, dim=0)
    inside = [(edges[0] <= v) & (v <= edges[-1]) for v in (given.double(), clean.double())]
    return [
        {"feature": name, "given": float(given[j]), "inside": bool(inside[0][j])}
        | {"inside_clean": bool(inside[1][j])}
        | dict(zip(QUANTILES, edges[:, j].tolist(), strict=True))
        for j, name in enumerate(case.x_names)
    ]
