"""Paired comparisons: two attacks, or two defenses, on the same observations."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from scipy.special import bdtr
from torch import Tensor

from robust_npe.checks import ConfigError, require
from robust_npe.metrics.summary import median_interval, quantiles
from robust_npe.random import stream

__all__ = ["SHARED", "paired", "paired_statistics"]

SHARED = ("task", "data_seed", "norm", "epsilon_unit")
"""What two runs must have in common for their observations and radii to be the same."""

RESAMPLES = 2000


def paired(observations: pd.DataFrame, metric: str, a: str, b: str) -> pd.DataFrame:
    """Compare a metric of two runs, observation by observation.

    Args:
        observations: Values of single observations of both runs, see `store.OBSERVATION_COLUMNS`.
        metric: What was measured, e.g. `kl_forward`.
        a: Id of a run.
        b: Id of another one.

    Returns:
        One row for each radius that both attacked, with columns `epsilon`, and those of
        `paired_statistics`.

    Raises:
        ConfigError: They share no radius at which both measured this; or their observations, or the
            meaning of the radius, are different.
    """
    attacked = observations[(observations.attack != "none") & (observations.metric == metric)]
    one, other = (attacked[attacked.run_id == run] for run in (a, b))
    for column in SHARED:
        found = [sorted(map(str, set(rows[column]))) for rows in (one, other)]
        if len(one) and len(other) and found[0] != found[1]:
            raise ConfigError(
                f"run={a},{b}: their {column} differs ({', '.join(f[0] for f in found)}), so that "
                "observations or radii are not the same: compare runs that share these."
            )
    rows = [{"epsilon": epsilon, **row} for epsilon, row in _by_radius(one, other)]
    require(len(rows) > 0, "run", f"{a},{b}", f"runs that measured {metric} at a common radius")
    return pd.DataFrame(rows)


def _by_radius(one: pd.DataFrame, other: pd.DataFrame) -> Iterator[tuple[float, dict[str, float]]]:
    both = one.merge(other, on=["epsilon", "observation"], suffixes=("_a", "_b"))
    for epsilon, pairs in both.groupby("epsilon"):
        a, b = (torch.from_numpy(pairs[f"value_{side}"].to_numpy(copy=True)) for side in "ab")
        yield float(str(epsilon)), paired_statistics(a, b)


def paired_statistics(a: Tensor, b: Tensor) -> dict[str, float]:
    """Compare two values of each observation, both `(B,)`.

    Pairs are resampled as pairs, so what makes an observation easy for both cancels. Pairs of which
    a value is missing (NaN or minus infinity) are left out.

    Returns:
        - `num_observations`: number of pairs;
        - `median_a`, `median_b` and their `ratio` a/b, `ratio_low` to `ratio_high` being a 95 %
          percentile interval of the bootstrap; NaN beside infinity;
        - `difference`: median of a - b, `difference_low` to `difference_high` an interval as that
          of `median_interval`;
        - `share_above`: share of pairs with a > b, half of the ties included;
        - `sign_test`: two-sided p-value of the hypothesis that a > b is as frequent as a < b, ties
          left out (exact binomial).
    """
    present = (a > -torch.inf) & (b > -torch.inf)
    a, b = a[present].double(), b[present].double()
    names = ("median_a", "median_b", "ratio", "ratio_low", "ratio_high", "difference")
    found = {"num_observations": float(len(a))} | dict.fromkeys(names, math.nan)
    if len(a):
        found["median_a"], found["median_b"] = (float(quantiles(v, [0.5])) for v in (a, b))
        found["ratio"] = float(np.divide(found["median_a"], found["median_b"] or math.nan))
        drawn = torch.randint(len(a), (RESAMPLES, len(a)), generator=stream(0, "bootstrap"))
        ratios = (quantiles(a[drawn], [0.5]) / quantiles(b[drawn], [0.5])).squeeze(0)
        found["ratio_low"], found["ratio_high"] = quantiles(ratios, [0.025, 0.975]).tolist()
        differences = torch.where(a == b, 0.0, a - b).sort().values  # equal infinities
        found["difference"] = float(quantiles(differences, [0.5]))
        found["difference_low"], found["difference_high"] = median_interval(differences)
    above, below = int((a > b).sum()), int((a < b).sum())
    found["share_above"] = (above + (len(a) - above - below) / 2) / max(1, len(a))
    tail = bdtr(min(above, below), above + below, 0.5) if above + below else 1.0
    return found | {"sign_test": min(1.0, 2 * float(tail))}
