"""How far an attack moves the amortized posterior."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution
from typing_extensions import override

from robust_npe.checks import require_positive_integer
from robust_npe.divergences import closed_form_kl, draws, mean_with_error, standard_error
from robust_npe.metrics.base import (
    Context,
    Measurement,
    Metric,
    batched,
    estimate_measurements,
    kl_measurements,
)
from robust_npe.posterior import log_prob
from robust_npe.random import draws_from

__all__ = ["Divergence"]

KEPT = 2**25  # numbers at most, from one radius to the next


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
    version = 3  # posteriors that are random: one draw of q(.|x) serves all radii

    def __init__(self, num_samples: int = 256) -> None:
        require_positive_integer("metrics.divergence.num_samples", num_samples)
        self.num_samples = num_samples

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        if not context.attacked:
            return []
        generator = context.generator("divergence")
        clean = iter(self._clean_draws(context, generator))

        def measure(p: Distribution, q: Distribution, drawn: tuple[Tensor, Tensor]) -> Tensor:
            """KL and half of the total variation, each followed by its error: `(B, 4)`."""
            theta, log_p = drawn
            terms = log_p - log_prob(q, theta)
            exact, paired = closed_form_kl(p, q), p.has_rsample
            no_error = torch.zeros_like(terms[0])
            kl = mean_with_error(terms, paired) if exact is None else (exact, no_error)
            overlap = torch.tanh(terms / 2).abs() / 2
            half = overlap.mean(0), standard_error(overlap, paired)
            return torch.stack((*kl, *half), dim=-1)

        def forwards(_: Tensor, x: Tensor, x_adv: Tensor) -> Tensor:
            return measure(context.q(x), context.q(x_adv), next(clean))

        def backwards(_: Tensor, x: Tensor, x_adv: Tensor) -> Tensor:
            p = context.q(x_adv)
            return measure(p, context.q(x), draws(p, self.num_samples, generator))

        forward, reverse = batched(context, forwards), batched(context, backwards)
        variation = forward[:, 2] + reverse[:, 2], torch.hypot(forward[:, 3], reverse[:, 3])
        kls = {"kl_forward": forward[:, :2], "kl_reverse": reverse[:, :2]}
        distances = {"total_variation": torch.stack(variation, dim=-1)}
        return kl_measurements(context, kls) + estimate_measurements(context, distances)

    def _clean_draws(self, context: Context, generator: Generator) -> list[tuple[Tensor, Tensor]]:
        """Return samples of q(.|x) and their log densities, batch by batch; the same ones at every
        radius, so that they are kept unless they are many."""

        def make() -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
            with torch.no_grad(), draws_from(context.generator("divergence posterior")):
                batches = context.x.split(context.batch_size)
                drawn = [draws(context.q(x), self.num_samples, generator) for x in batches]
            return drawn, generator.get_state()

        few = self.num_samples * len(context.x) * context.task.dim_theta <= KEPT
        key = f"divergence {self.num_samples}"
        drawn, state = context.once(key, make) if few else make()
        generator.set_state(state)
        return drawn
