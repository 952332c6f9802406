"""How far an attack moves the amortized posterior."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from robust_npe.checks import require
from robust_npe.divergences import kl_with_error
from robust_npe.metrics.base import Context, Measurement, Metric, batched, kl_measurements

__all__ = ["Divergence"]


class Divergence(Metric):
    """Sensitivity of q: `kl_forward` = KL(q(.|x) || q(.|x~)), `kl_reverse` the other direction.

    With the Monte-Carlo standard error of each: `kl_forward_se`, `kl_reverse_se`.

    Args:
        num_samples: Monte-Carlo samples where there is no closed form.
    """

    name = "divergence"

    def __init__(self, num_samples: int = 256) -> None:
        require(num_samples > 0, "metrics.divergence.num_samples", num_samples, "positive")
        self.num_samples = num_samples

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        if not context.attacked:
            return []
        q, n = context.q, self.num_samples
        generator = context.generator("divergence")

        def divergence(x: Tensor, other: Tensor) -> Tensor:
            return torch.stack(kl_with_error(q(x), q(other), n, generator), dim=-1)

        estimates = {
            "kl_forward": batched(context, lambda _, x, x_adv: divergence(x, x_adv)),
            "kl_reverse": batched(context, lambda _, x, x_adv: divergence(x_adv, x)),
        }
        return kl_measurements(context, estimates)
