"""Expected coverage of highest-density regions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from robust_npe.checks import require_positive_integer
from robust_npe.metrics.base import Context, Measurement, Metric, batched
from robust_npe.posterior import as_events, log_prob, sample_and_log_prob
from robust_npe.random import draws_from

__all__ = ["Coverage", "coverage_curve", "coverage_summary"]


class Coverage(Metric):
    """How often the true parameters lie in the highest-density region of a nominal level.

    For each pair, `hpd_level` is the smallest level whose highest-density region of q(.|x~)
    contains theta, estimated by ranking log q(theta|x~) among samples (middle of the rank, which
    is drawn among ties, as where q is discrete). It is uniform for a calibrated posterior. On
    perturbed x~ theta is what generated the clean x. Where the density is NaN, theta counts as not
    covered; `nonfinite_fraction` is the share of such pairs.

    References:
        Hermans et al. (2022), "A trust crisis in simulation-based inference? Your posterior
        approximations can be unfaithful", https://arxiv.org/abs/2110.06581

    Args:
        num_samples: Posterior samples per observation.
        num_levels: Number of intervals between nominal levels 0 and 1.
    """

    name = "coverage"
    needs_theta = True
    version = 2  # ties are broken at random

    def __init__(self, num_samples: int = 200, num_levels: int = 20) -> None:
        require_positive_integer("metrics.coverage.num_samples", num_samples)
        require_positive_integer("metrics.coverage.num_levels", num_levels)
        self.num_samples = num_samples
        self.num_levels = num_levels

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        generator, breaks = (context.generator(name) for name in ("coverage", "coverage ties"))

        def hpd_level(theta: Tensor, _: Tensor, x_adv: Tensor) -> Tensor:
            q = context.q(x_adv)
            with draws_from(generator):
                log_probs = sample_and_log_prob(q, (self.num_samples,))[1]
            at_theta = log_prob(q, as_events(q, theta))
            above, ties = (log_probs > at_theta).sum(0), (log_probs == at_theta).sum(0)
            uniform = torch.rand(len(x_adv), generator=breaks, dtype=torch.float64)
            rank = above + (uniform.to(ties.device) * (ties + 1)).long()
            level = (rank + 0.5) / (self.num_samples + 1)
            # without a density there is no region: such a pair counts as not covered
            broken = at_theta.isnan() | log_probs.isnan().any(0)
            return torch.where(broken, torch.nan, level)

        values = batched(context, hpd_level)
        levels = np.linspace(0, 1, self.num_levels + 1)
        curve = coverage_curve(values, levels)
        rows = [
            {"statistic": "coverage", "level": float(level), "value": float(value)}
            for level, value in zip(levels, curve, strict=True)
        ]
        summary = coverage_summary(levels, curve)
        summary["nonfinite_fraction"] = float(values.isnan().double().mean())
        for statistic, value in summary.items():
            rows.append({"statistic": statistic, "level": None, "value": value})
        return [Measurement("coverage", rows), Measurement("hpd_level", [], values)]


def coverage_curve(hpd_levels: Tensor, levels: np.ndarray) -> np.ndarray:
    """Return the fraction of `hpd_levels (B,)` at or below each nominal level."""
    nominal = torch.as_tensor(levels, dtype=hpd_levels.dtype, device=hpd_levels.device)
    return (hpd_levels.unsqueeze(-1) <= nominal).double().mean(0).cpu().numpy()


def coverage_summary(levels: np.ndarray, curve: np.ndarray) -> dict[str, float]:
    """Return the signed area between curve and diagonal (positive is conservative, negative
    overconfident) and the mean absolute error over the levels."""
    return {
        "signed_area": float(np.trapezoid(curve - levels, levels)),
        "mean_absolute_error": float(np.abs(curve - levels).mean()),
    }
