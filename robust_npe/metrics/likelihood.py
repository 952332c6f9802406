"""Negative log likelihood of the true parameters."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from robust_npe.metrics.base import Context, Measurement, Metric, batched, summary_rows
from robust_npe.posterior import as_events, log_prob

__all__ = ["NLL"]


class NLL(Metric):
    """-log q(theta|x~) in nats, theta being the parameters that generated the clean x."""

    name = "nll"
    needs_theta = True

    @override
    def __call__(self, context: Context) -> list[Measurement]:

        def nll(theta: Tensor, _: Tensor, x_adv: Tensor) -> Tensor:
            q = context.q(x_adv)
            return -log_prob(q, as_events(q, theta))

        values = batched(context, nll)
        return [Measurement("nll", summary_rows(values), values)]
