"""Along which direction of x the posterior is most sensitive."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from robust_npe.adapters.prior_draws import PriorDrawsPosterior
from robust_npe.auditing.case import Case
from robust_npe.auditing.settings import AuditSettings
from robust_npe.fisher import leading_eigenvectors, rayleigh_quotient
from robust_npe.posterior import differentiated_scores
from robust_npe.random import draws_from

__all__ = ["sensitivity"]

ROWS = 32  # observations whose scores are held together


def sensitivity(case: Case, settings: AuditSettings) -> pd.DataFrame:
    """Return the leading eigenvector v of the Fisher information I_x at the first observations, in
    coordinates in which the threat measures perturbations.

    One row for each observation and feature: `component` of v (its largest is positive), `step`,
    the same in units of x at radius 1; `share`, the part of tr I_x along v, and `eigenvalue`, so
    that KL(q(.|x) || q(.|x + r v)) is about eigenvalue r^2 / 2 for small radii r. Direction and
    size are from different samples: both from the same few would overestimate them. NaN where the
    posterior has no gradient.
    """
    ball, frames, start = case.ball(1.0), [], 0
    scores: Callable[..., Tensor] = partial(differentiated_scores, case.posterior)
    if isinstance(case.posterior, PriorDrawsPosterior):  # densities at copies of x cost too much
        scores = case.posterior.scores
    unit = case.scale * ball.radius
    for x, _ in case.batches(ROWS, settings.num_attacked):
        generator = case.generator("sensitivity", start)
        with draws_from(case.generator("sensitivity posterior")):
            score = scores(x, settings.num_scores, generator, False)
        score = score.double() * unit
        direction, share, eigenvalue = _leading(score)
        features = len(case.x_names)
        frames.append(
            pd.DataFrame(
                {
                    "observation": [start + i for i in range(len(x)) for _ in range(features)],
                    "feature": case.x_names * len(x),
                    "component": direction.flatten().tolist(),
                    "step": (direction * unit).flatten().tolist(),
                    "share": share.repeat_interleave(features).tolist(),
                    "eigenvalue": eigenvalue.repeat_interleave(features).tolist(),
                }
            )
        )
        start += len(x)
    return pd.concat(frames, ignore_index=True)


def _leading(score: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return direction `(B, Dx)`, share and eigenvalue `(B,)` of scores `(S, B, Dx)`."""
    usable = torch.where(score.isfinite().all(-1, keepdim=True), score, 0.0)
    size = (
        usable.abs().amax((0, 2), keepdim=True).clamp(min=1e-300)
    )  # squares of huge ones overflow
    along, across = (usable / size).chunk(2)
    direction = leading_eigenvectors(along, 1)[0]
    largest = direction.gather(1, direction.abs().argmax(1, keepdim=True))
    direction = direction * torch.where(largest < 0, -1.0, 1.0)
    value, total = rayleigh_quotient(across, direction), across.square().sum(-1).mean(0)
    nothing = total == 0
    direction = torch.where(nothing.unsqueeze(1), torch.nan, direction)
    return direction, value / total, torch.where(nothing, torch.nan, value * size.flatten() ** 2)
