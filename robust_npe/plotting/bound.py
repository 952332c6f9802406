"""Estimators against the exact bound of the linear Gaussian task."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from robust_npe.plotting.cells import NothingToDrawError
from robust_npe.plotting.columns import tidy
from robust_npe.plotting.describing import setup_note
from robust_npe.plotting.layout import figure_of
from robust_npe.plotting.tolerance import BOUND, tolerance_part
from robust_npe.tasks import GaussianLinear

__all__ = ["analytic_bound_plot", "with_analytic_bound"]


def with_analytic_bound(table: pd.DataFrame, task: GaussianLinear | None = None) -> pd.DataFrame:
    """Return results with rows of the metric `analytic_bound`: how far the true posterior can move.

    The exact posterior N(m(x), S) has a mean that is linear in x and a covariance S without x, so
    KL(p(.|x) || p(.|x + delta)) = 1/2 delta^T A^T P S P A delta with slopes A and precision of the
    noise P, at most 1/2 |delta|^2 max_i s_i a_i^2 / noise_std^4. An estimator that were exact
    would reach it and not exceed it.

    Args:
        table: Results that contain `epsilon_abs`, radii in units of x.
        task: The task; None for the paper's.
    """
    task = task or GaussianLinear()
    precision = (task.slopes / task.noise_std) ** 2
    largest = float((precision / (1 + precision)).max()) / task.noise_std**2
    rows = table[(table.task == task.name) & (table.metric == "kl_forward")]
    rows = rows[(rows.statistic == "median") & (rows.norm == "l2")]
    bound = 0.5 * rows.epsilon_abs**2 * largest
    return pd.concat([table, rows.assign(metric=BOUND, value=bound)], ignore_index=True)


@tidy
def analytic_bound_plot(table: pd.DataFrame, compare: str = "estimator") -> Figure:
    """Draw tolerance on the linear Gaussian task over the curve of its exact bound.

    Args:
        table: Results of undefended estimators under one attack in L2.
        compare: What the lines are.
    """
    others = ["legitimate_movement", "certified_kl_forward"]
    own = table[(table.task == GaussianLinear.name) & ~table.metric.isin(others)]
    if own.empty:
        raise NothingToDrawError(f"no rows of task {GaussianLinear.name}")
    part = tolerance_part(with_analytic_bound(own), "kl_forward", compare)
    return figure_of([part], setup_note(own, part.tasks))
