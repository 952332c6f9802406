"""How values of single observations are summarised, and how well the summary is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.special import bdtr, betainc
from torch import Tensor

from robust_npe.random import stream

__all__ = ["mean_interval", "median_interval", "median_sd", "quantiles", "summary_rows"]

QUANTILES = {"median": 0.5, "q15": 0.15, "q85": 0.85}
TAIL = 0.025  # on each side of an interval
BLOCKS, RESAMPLES = 10, 100  # of the bootstrap, resamples per block: all at once need memory


def summary_rows(values: Tensor) -> list[dict[str, Any]]:
    """Summarise values `(B,)`: median, 15 and 85 % quantiles, mean, and how well they are known.

    `median_low` to `median_high` and `mean_low` to `mean_high` are 95 % intervals for other
    observations of the same kind, see `median_interval` and `mean_interval`; `median_spread` is the
    standard deviation of the median relative to it, see `median_sd`; `num_observations` is their
    number.

    +inf is the largest value: a divergence from a posterior that excludes what the other allows, a
    truth that q excludes. NaN, what could not be computed, and -inf, which none of our metrics can
    honestly be, are missing: the statistics are those of the other values, or NaN where more than
    half are missing. `nonfinite_fraction` counts all three.
    """
    values = values.double().cpu()
    known = present(values, values).sort().values
    statistics = dict(zip(QUANTILES, quantiles(known, [*QUANTILES.values()]).tolist(), strict=True))
    statistics["mean"] = float(known.mean())
    statistics["median_low"], statistics["median_high"] = median_interval(known)
    statistics["mean_low"], statistics["mean_high"] = mean_interval(known)
    median = abs(statistics["median"])
    statistics["median_spread"] = median_sd(known) / median if median > 0 else math.nan
    statistics["num_observations"] = int((values > -torch.inf).sum())
    statistics["nonfinite_fraction"] = 1 - int(values.isfinite().sum()) / len(values)
    return [row(statistic, value) for statistic, value in statistics.items()]


def median_interval(values: Tensor) -> tuple[float, float]:
    """Return a 95 % confidence interval for the median of what sorted values `(B,)` are drawn from.

    Between two order statistics, for any distribution: how many values are below its median is
    binomial. NaN for fewer than six values, which leave more than 5 % on the outside.

    References:
        David & Nagaraja (2003), "Order statistics", section 7.1, https://doi.org/10.1002/0471722162
    """
    n = len(values)
    outside = int((bdtr(np.arange(n), n, 0.5) <= TAIL).sum())
    if not outside:
        return math.nan, math.nan
    return float(values[outside - 1]), float(values[n - outside])


def median_sd(values: Tensor) -> float:
    """Return the standard deviation of the median of sorted values `(B,)` under the bootstrap.

    Without resampling: the median of a resample is the k-th value with a known probability. NaN for
    a single value, and beside infinity.

    References:
        Maritz & Jarrett (1978), "A note on estimating the variance of the sample median",
        https://doi.org/10.1080/01621459.1978.10480027
    """
    n = len(values)
    if n < 2:
        return math.nan
    weights = np.diff(betainc((n + 1) / 2, (n + 1) / 2, np.arange(n + 1) / n))
    reached = weights > 1e-6  # infinite values far above the median do not matter
    weights, x = weights[reached], values.numpy()[reached]
    return float(np.sqrt(weights @ (x - weights @ x) ** 2)) if np.isfinite(x).all() else math.nan


def mean_interval(values: Tensor) -> tuple[float, float]:
    """Return a 95 % confidence interval for the mean of what values `(B,)` are drawn from.

    Quantiles of the mean of 1000 bootstrap resamples, the same for equal sizes. NaN for a single
    value.
    """
    n, generator = len(values), stream(0, "bootstrap")
    if n < 2:
        return math.nan, math.nan
    drawn = (torch.randint(n, (RESAMPLES, n), generator=generator) for _ in range(BLOCKS))
    means = torch.cat([values[resamples].mean(-1) for resamples in drawn])
    low, high = quantiles(means, [TAIL, 1 - TAIL]).tolist()
    return low, high


def quantiles(values: Tensor, levels: list[float]) -> Tensor:
    """Return quantiles `(len(levels), *)` of values `(*, B)`, linear between order statistics, of
    which +inf is the largest; `torch.quantile` makes NaN of it."""
    q = torch.tensor(levels, dtype=values.dtype, device=values.device)
    above = torch.quantile(values, q, dim=-1, interpolation="higher")
    return torch.where(above == torch.inf, above, torch.quantile(values, q, dim=-1))


def present(values: Tensor, rows: Tensor) -> Tensor:
    """Return the rows whose value is not missing; one of NaN where more than half of them are."""
    there = rows[values > -torch.inf]
    enough = 2 * len(there) >= len(rows)
    return there if enough else rows.new_full((1, *rows.shape[1:]), torch.nan)


def row(statistic: str, value: float, level: float | None = None) -> dict[str, Any]:
    """Return a row of the tidy results, without the columns that say what was measured."""
    return {"statistic": statistic, "level": level, "value": value}
