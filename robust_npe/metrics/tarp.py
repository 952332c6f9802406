"""Tests of accuracy with random points: coverage that needs samples alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from robust_npe.checks import require, require_positive_integer
from robust_npe.metrics.base import Context, Measurement, Metric, batched
from robust_npe.metrics.coverage import coverage_curve, coverage_summary
from robust_npe.metrics.sbc import ranks, uniformity
from robust_npe.metrics.summary import row
from robust_npe.posterior import as_vectors
from robust_npe.random import draws_from

__all__ = ["TARP", "tarp_curve"]


class TARP(Metric):
    """How often the truth lies in the ball around a random point that holds a share of q(.|x~).

    For each pair, `tarp_level` is the share of samples of q(.|x~) that are closer to a reference
    point than theta is. Reference points are uniform in the box between the smallest and the
    largest theta of the test set, in units of whose sides distances (L2) are measured, as in sbi. A
    calibrated posterior gives uniform levels. Unlike highest-density regions these need no density,
    and notice a posterior that is shifted. On perturbed x~ theta is what generated the clean x.

    Rows: the curve `coverage` at nominal levels; `signed_area` between curve and diagonal above
    level 1/2, positive where q is too wide, negative where it is too narrow or shifted;
    `mean_absolute_error`; `ks_distance` and `ks_p_value` of the levels, see `SBC`.

    References:
        Lemos, Coogan, Hezaveh & Perreault-Levasseur (2023), "Sampling-based accuracy testing of
        posterior estimators for general inference", https://arxiv.org/abs/2302.03026

    Args:
        num_samples: Posterior samples per observation.
        num_levels: Number of intervals between nominal levels 0 and 1, even.
    """

    name = "tarp"
    needs_theta = True

    def __init__(self, num_samples: int = 200, num_levels: int = 20) -> None:
        even = num_levels > 0 and num_levels % 2 == 0
        require_positive_integer("metrics.tarp.num_samples", num_samples)
        require(even, "metrics.tarp.num_levels", num_levels, "positive and even")
        self.num_samples = num_samples
        self.num_levels = num_levels

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        names = ("tarp", "tarp references", "tarp ties")
        generator, points, breaks = (context.generator(name) for name in names)
        flat = context.theta.reshape(len(context.theta), -1)
        low, high = flat.min(0).values, flat.max(0).values
        side = torch.where(high > low, high - low, torch.ones_like(high))

        def level(theta: Tensor, _: Tensor, x_adv: Tensor) -> Tensor:
            q = context.q(x_adv)
            with draws_from(generator):
                samples = (as_vectors(q, q.sample((self.num_samples,))) - low) / side
            theta = (theta.reshape(samples.shape[1:]) - low) / side
            reference = torch.rand(theta.shape, generator=points).to(theta)
            far, truth = ((v - reference).norm(dim=-1) for v in (samples, theta))
            cell = torch.rand(truth.shape, generator=breaks, dtype=torch.float64)
            found = (ranks(far, truth, breaks) + cell) / (self.num_samples + 1)
            return found.masked_fill(far.isnan().any(0).cpu(), torch.nan)

        values = batched(context, level)
        levels, curve = tarp_curve(values, self.num_levels)
        rows = [
            {"statistic": "coverage", "level": float(nominal), "value": float(value)}
            for nominal, value in zip(levels, curve, strict=True)
        ]
        summary = coverage_summary(levels, curve)
        upper = slice(self.num_levels // 2, None)
        summary["signed_area"] = coverage_summary(levels[upper], curve[upper])["signed_area"]
        rows += [row(k, v) for k, v in {**summary, **uniformity(values)}.items()]
        return [Measurement("tarp", rows), Measurement("tarp_level", [], values)]


def tarp_curve(values: Tensor, num_levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nominal levels and the share of `values (B,)` at or below each."""
    levels = np.linspace(0, 1, num_levels + 1)
    return levels, coverage_curve(values, levels)
