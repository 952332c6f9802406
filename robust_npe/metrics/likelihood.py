"""Negative log likelihood of the true parameters."""

from __future__ import annotations

from robust_npe.metrics.base import Context, Measurement, Metric, batched, summary_rows

__all__ = ["NLL"]


class NLL(Metric):
    """-log q(theta|x~) in nats, theta being the parameters that generated the clean x."""

    def __call__(self, context: Context) -> list[Measurement]:
        """See `Metric`."""
        values = batched(context, lambda theta, _, x_adv: -context.estimator(x_adv).log_prob(theta))
        return [Measurement("nll", summary_rows(values), values)]
