"""How far an attack moves the amortized posterior."""

from __future__ import annotations

from robust_npe.checks import require
from robust_npe.divergences import kl
from robust_npe.metrics.base import Context, Measurement, Metric, batched, summary_rows

__all__ = ["Divergence"]


class Divergence(Metric):
    """Sensitivity of q: `kl_forward` = KL(q(.|x) || q(.|x~)), `kl_reverse` the other direction.

    Args:
        num_samples: Monte-Carlo samples where there is no closed form.
    """

    name = "divergence"

    def __init__(self, num_samples: int = 256) -> None:
        require(num_samples > 0, "metrics.divergence.num_samples", num_samples, "positive")
        self.num_samples = num_samples

    def __call__(self, context: Context) -> list[Measurement]:
        """See `Metric`."""
        if not context.attacked:
            return []
        q, n = context.posterior, self.num_samples
        generator = context.generator("divergence")
        values = {
            "kl_forward": batched(context, lambda _, x, x_adv: kl(q(x), q(x_adv), n, generator)),
            "kl_reverse": batched(context, lambda _, x, x_adv: kl(q(x_adv), q(x), n, generator)),
        }
        return [Measurement(name, summary_rows(v), v) for name, v in values.items()]
