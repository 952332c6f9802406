"""How far an attack moves the amortized posterior."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from robust_npe.checks import require
from robust_npe.divergences import closed_form_kl, log_ratios, mean_with_error, standard_error
from robust_npe.metrics.base import (
    Context,
    Measurement,
    Metric,
    batched,
    estimate_measurements,
    kl_measurements,
)

__all__ = ["Divergence"]


class Divergence(Metric):
    """Sensitivity of q: how far an attack moves it.

    - `kl_forward` = KL(q(.|x) || q(.|x~)), `kl_reverse` the other direction, in nats. Where they
      are small a control variate takes most of the noise away, see `mean_with_error`;
    - `total_variation`, between 0 and 1: the largest change of the probability of any event. It
      says how much of the posterior moved, also where KLs measure nothing but how fast the tails of
      a family fall. From the same samples: the mean of |p - q| / (p + q) over the mixture of both,
      each term of which is bounded, so that no tail spoils the estimate.

    With the Monte-Carlo standard error of each: `kl_forward_se`, `kl_reverse_se`,
    `total_variation_se`.

    Args:
        num_samples: Monte-Carlo samples from each of the two.
    """

    name = "divergence"
    version = 2  # small KLs have a control variate

    def __init__(self, num_samples: int = 256) -> None:
        require(num_samples > 0, "metrics.divergence.num_samples", num_samples, "positive")
        self.num_samples = num_samples

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        if not context.attacked:
            return []
        generator = context.generator("divergence")

        def measure(x: Tensor, other: Tensor) -> Tensor:
            """KL and half of the total variation, each followed by its error: `(B, 4)`."""
            p, q = context.q(x), context.q(other)
            terms = log_ratios(p, q, self.num_samples, generator)
            exact, paired = closed_form_kl(p, q), p.has_rsample
            no_error = torch.zeros_like(terms[0])
            kl = mean_with_error(terms, paired) if exact is None else (exact, no_error)
            overlap = torch.tanh(terms / 2).abs() / 2
            half = overlap.mean(0), standard_error(overlap, paired)
            return torch.stack((*kl, *half), dim=-1)

        forward = batched(context, lambda _, x, x_adv: measure(x, x_adv))
        reverse = batched(context, lambda _, x, x_adv: measure(x_adv, x))
        variation = forward[:, 2] + reverse[:, 2], torch.hypot(forward[:, 3], reverse[:, 3])
        kls = {"kl_forward": forward[:, :2], "kl_reverse": reverse[:, :2]}
        distances = {"total_variation": torch.stack(variation, dim=-1)}
        return kl_measurements(context, kls) + estimate_measurements(context, distances)
