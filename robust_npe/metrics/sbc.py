"""Simulation-based calibration: ranks of the true parameters among posterior samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor
from typing_extensions import override

from robust_npe.checks import require_positive_integer
from robust_npe.metrics.base import Context, Measurement, Metric, batched
from robust_npe.metrics.summary import row
from robust_npe.posterior import as_vectors
from robust_npe.random import draws_from

__all__ = ["SBC", "ranks", "uniformity"]


class SBC(Metric):
    """Is the rank of each true parameter among samples of q(.|x~) uniform?

    Rows for each parameter (its number in `level`, from 1) and for the worst one: `ks_distance`,
    the largest distance between the distribution of ranks and the uniform one, and `ks_p_value` of
    the Kolmogorov-Smirnov test; the worst p-value is corrected for the number of parameters. For
    each observation `sbc_rank_1`, ...: the rank between 0 and 1, at random within its cell, so that
    it is exactly uniform for a calibrated posterior. On perturbed x~ theta is what generated the
    clean x. Infinite samples count as such; NaN makes the rank missing.

    References:
        Talts et al. (2018), "Validating Bayesian inference algorithms with simulation-based
        calibration", https://arxiv.org/abs/1804.06788

    Args:
        num_samples: Posterior samples per observation.
    """

    name = "sbc"
    needs_theta = True

    def __init__(self, num_samples: int = 200) -> None:
        require_positive_integer("metrics.sbc.num_samples", num_samples)
        self.num_samples = num_samples

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        generator, breaks = (context.generator(name) for name in ("sbc", "sbc ties"))

        def rank(theta: Tensor, _: Tensor, x_adv: Tensor) -> Tensor:
            q = context.q(x_adv)
            with draws_from(generator):
                samples = as_vectors(q, q.sample((self.num_samples,)))
            theta = theta.reshape(samples.shape[1:])
            cell = torch.rand(theta.shape, generator=breaks, dtype=torch.float64)
            found = (ranks(samples, theta, breaks) + cell) / (self.num_samples + 1)
            return found.masked_fill(samples.isnan().any(0).cpu(), torch.nan)

        columns = batched(context, rank).unbind(-1)
        measured = [uniformity(column) for column in columns]
        rows: list[dict[str, Any]] = [
            {"statistic": statistic, "level": float(i), "value": value}
            for i, found in enumerate(measured, 1)
            for statistic, value in found.items()
        ]
        rows.append(row("ks_distance", max(m["ks_distance"] for m in measured)))
        smallest = min(m["ks_p_value"] for m in measured)
        rows.append(row("ks_p_value", min(1.0, smallest * len(columns))))
        each = [Measurement(f"sbc_rank_{i}", [], v) for i, v in enumerate(columns, 1)]
        return [Measurement("sbc", rows), *each]


def ranks(samples: Tensor, theta: Tensor, generator: Generator) -> Tensor:
    """Return how many samples `(S, *)` are below theta `(*,)`, drawn among ties; on the CPU."""
    below, ties = (samples < theta).sum(0).cpu(), (samples == theta).sum(0).cpu()
    uniform = torch.rand(ties.shape, generator=generator, dtype=torch.float64)
    return below + (uniform * (ties + 1)).long()


def uniformity(values: Tensor) -> dict[str, float]:
    """Test values `(B,)` between 0 and 1 for uniformity; NaN where there are only missing ones."""
    from scipy import stats  # slow to import

    present = values[~values.isnan()].cpu().double().numpy()
    if not len(present):
        return {"ks_distance": torch.nan, "ks_p_value": torch.nan}
    test = stats.kstest(present, "uniform")
    return {"ks_distance": float(test.statistic), "ks_p_value": float(test.pvalue)}
