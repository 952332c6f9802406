"""Which settings of defenses are worth choosing: likelihood lost against robustness gained."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from robust_npe.plotting.cells import MARKS, NothingToDrawError
from robust_npe.plotting.fronts import trainings
from robust_npe.plotting.names import task_name

__all__ = ["BEST", "GROUP", "UNDEFENDED", "best_within", "fronts", "non_dominated"]

log = logging.getLogger(__name__)

GROUP = [
    "task",
    "estimator",
    "num_simulations",
    "attack",
    "norm",
    "objective",
    "attack_settings",
    "domain",
    "epsilon_unit",
]
"""Columns in which settings must agree to be compared."""

SETTING = ["defense", "beta", "defense_epsilon", "defense_settings"]
UNDEFENDED, BEST = "no defense", "the best NLL"
"""What a loss of likelihood is relative to."""


def non_dominated(losses: np.ndarray) -> np.ndarray:
    """Tell which points no other one beats: is at most as large everywhere, and smaller somewhere.

    Args:
        losses: Quantities that are minimised, `(N, K)`; points that are not finite are beaten.

    Returns:
        `(N,)`, boolean.
    """
    no_worse = (losses[:, None] <= losses[None, :]).all(-1)
    better = (losses[:, None] < losses[None, :]).any(-1)
    return np.isfinite(losses).all(-1) & ~(no_worse & better).any(0)


def fronts(table: pd.DataFrame, epsilon: float, metric: str = "kl_forward") -> pd.DataFrame:
    """Return what each setting of each defense costs and gains, means over seeds.

    Settings are compared within one task, estimator, size of the training set and attack.

    Args:
        table: Tidy results of any runs; those without this divergence at this radius are left out.
        epsilon: Radius of the attack.
        metric: Divergence.

    Returns:
        One row for each setting, with the columns `GROUP` and `group`, what people call it; the
        setting; `seeds`, their number;
        `nll`, the clean mean, and `kl`, the median under attack, see `outcomes`, nats; `loss`, the
        NLL above that of `relative_to`: the undefended runs, those of the same seeds where there
        are any, or the best setting where nothing is undefended; `non_dominated`; and what speaks
        against it. A group is left out with a warning where two of its runs differ in something
        that no column tells.

    Raises:
        NothingToDrawError: No run has both.
    """
    attacked = table[(table.attack != "none") & (table.epsilon == epsilon)]
    attacked = attacked[(attacked.metric == metric) & (attacked.statistic == "median")]
    likely = table[(table.metric == "nll") & (table.attack == "none") & (table.statistic == "mean")]
    attacked = attacked[attacked.run_id.isin(likely.run_id)]
    if attacked.empty:
        radii = sorted(table[table.metric == metric].epsilon.unique())
        known = f"it is there at {', '.join(map('{:g}'.format, radii))}" if radii else "none has it"
        raise NothingToDrawError(f"no runs with nll and {metric} at radius {epsilon:g}: {known}")
    found: list[pd.DataFrame] = []
    for _, runs in attacked.groupby(GROUP, sort=False, dropna=False):
        first = runs[GROUP].iloc[0]
        try:
            own = trainings(table[table.run_id.isin(runs.run_id)], epsilon, metric)
        except ValueError as error:
            log.warning("left out %s, %s: %s", first.task, first.estimator, error)
            continue
        found.append(_settings(own).assign(**first))
    if not found:
        raise NothingToDrawError("no runs that can be compared: see the warnings")
    points = pd.concat(found, ignore_index=True)
    columns = [*SETTING, "seeds", "nll", "kl", "loss", "relative_to", "non_dominated", *MARKS]
    return points.assign(group=_group_names(points))[["group", *GROUP, *columns]]


def _group_names(points: pd.DataFrame) -> pd.Series:
    """Return the name of the task, and the settings in which groups differ."""
    several = [name for name in GROUP[1:] if points[name].nunique(dropna=False) > 1]
    names = []
    for row in points[["task", *several]].itertuples(index=False):
        settings = [f"{name}={value}" for name, value in zip(several, row[1:], strict=True)]
        names.append(", ".join([task_name(str(row.task)), *settings]))
    return pd.Series(names, points.index)


def _settings(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each setting of the trainings of one group."""
    runs = runs.assign(
        defense=runs.family, defense_settings=runs.defense_settings.fillna(""), seeds=1
    )
    seeds = ["seed", "data_seed"]
    plain = runs[runs.defense == "none"]
    same = plain.groupby(seeds).nll.mean().rename("nll_none")
    runs = runs.join(same, on=seeds)
    runs["loss"] = runs.nll - runs.nll_none.fillna(plain.nll.mean())
    groups = runs.groupby(SETTING, dropna=False, sort=False)
    points = groups[["nll", "kl", "loss"]].mean().join(groups.seeds.sum())
    points["relative_to"] = UNDEFENDED if len(plain) else BEST
    if plain.empty:
        points["loss"] = points.nll - points.nll.min()
    points["non_dominated"] = non_dominated(points[["nll", "kl"]].to_numpy())
    return points.join(groups[[*MARKS]].any()).reset_index().sort_values(["nll", "kl"])


def best_within(settings: pd.DataFrame, max_nll_loss: float) -> pd.DataFrame:
    """Return the most robust setting of each defense among those that cost little likelihood.

    Args:
        settings: Of `fronts`.
        max_nll_loss: Largest loss, nats.

    Returns:
        One row for each group and defense other than none, as in `fronts`: that of the smallest
        `kl`, or where none is cheap enough, that of the smallest loss.
    """
    defended = settings[settings.defense != "none"]
    chosen = []
    for _, own in defended.groupby(["group", "defense"], sort=False):
        cheap = own[own.loss <= max_nll_loss]
        best = own.sort_values("loss") if cheap.empty else cheap.sort_values(["kl", "loss"])
        chosen.append(best.iloc[:1])
    return pd.concat(chosen, ignore_index=True) if chosen else defended
