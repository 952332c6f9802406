"""How far no attack can move the amortized posterior."""

from __future__ import annotations

import torch
from typing_extensions import override

from robust_npe.attacks import L2
from robust_npe.certificates import certified_kl
from robust_npe.defenses import Smoothing
from robust_npe.metrics.base import Context, Measurement, Metric, summary_rows
from robust_npe.posterior import Posterior
from robust_npe.tasks.base import Task

__all__ = ["CertifiedKL"]

TINY = torch.finfo(torch.float64).tiny


class CertifiedKL(Metric):
    """Bounds that no perturbation of the attack's radius exceeds: `certified_kl_forward` of what
    `Divergence` calls `kl_forward`, and `certified_kl_reverse`.

    Only of posteriors that have a certificate, see `robust_npe.certificates.certified_kl`. Float32
    may round x~ out of the ball; the bound holds for where it is.
    """

    name = "certified_kl"

    @override
    def missing(self, task: Task, estimator: Posterior, defense: str) -> str:
        bound = certified_kl(estimator, torch.zeros(1, task.dim_x), L2(1.0))
        if defense == Smoothing.name or bound is not None:
            return ""
        return "estimator=gaussian or gaussian_full with an mlp or no embedding, or smoothing"

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        if not context.attacked or context.ball is None or context.epsilon is None:
            return []
        x = context.x.double()
        one = context.ball(1.0)
        distance = one.norm(context.x_adv.double() - x) / max(float(one.radius), TINY)
        radius = torch.where(distance > context.epsilon, distance, context.epsilon)
        certificate = certified_kl(context.posterior, x, context.ball(radius))
        if certificate is None:
            return []
        return [
            Measurement(f"certified_kl_{direction}", summary_rows(values), values)
            for direction, values in certificate._asdict().items()
        ]
