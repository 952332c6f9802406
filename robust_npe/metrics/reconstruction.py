"""What an attack on a Gaussian posterior does to what comes of its draws."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from robust_npe.checks import require_positive, require_positive_integer
from robust_npe.encoders import Encoder, clopper_pearson, encoder_missing
from robust_npe.metrics.base import Context, Measurement, Metric, batched, summary_rows
from robust_npe.metrics.summary import row
from robust_npe.posterior import Posterior
from robust_npe.tasks.base import Task

__all__ = ["LikelihoodDegradation", "RRobustness", "ReconstructionDamage"]

DIRECTIONS = 8  # of noise for each observation


class RRobustness(Metric):
    """P(|Delta(x~)| <= r): `r_probability`, with 95 % limits `r_probability_low` and `_high`.

    Beside the summary, `robust` is the share of observations for which it is above 1/2, with a 95 %
    interval for other observations of the same kind, `robust_low` to `robust_high`. For Gaussian
    posteriors, see `robust_npe.encoders`, attacked or clean. Limits are those of Clopper & Pearson.

    References:
        Camuto et al. (2021), https://arxiv.org/abs/2007.07365, definition 1

    Args:
        r: Radius in units of the decoder's output, without one of the prior's standard deviation.
        num_samples: Draws of eta for each observation.
    """

    name = "r_robustness"

    def __init__(self, r: float = 1.0, num_samples: int = 1000) -> None:
        require_positive("metrics.r_robustness.r", r)
        require_positive_integer("metrics.r_robustness.num_samples", num_samples)
        self.r = r
        self.num_samples = num_samples

    @override
    def missing(self, task: Task, estimator: Posterior, defense: str) -> str:
        return encoder_missing(estimator, task.dim_x)

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        encoder, generator = Encoder(context.posterior), context.generator("r-robustness")
        if not encoder.applies(context.x[:1]):
            return []

        def inside(_: Tensor, x: Tensor, x_adv: Tensor) -> Tensor:
            expected = encoder.reconstruct(x)
            return (encoder.deviations(x_adv, expected, self.num_samples, generator) <= self.r).sum(
                0
            )

        count = batched(context, inside)
        share = count.double().cpu() / self.num_samples
        low, high = clopper_pearson(count, self.num_samples)
        robust = share > 0.5
        limits = clopper_pearson(robust.sum(), len(robust))
        shares = (robust.double().mean(), *limits)
        names = ("robust", "robust_low", "robust_high")
        rows = [row(name, float(value)) for name, value in zip(names, shares, strict=True)]
        return [
            Measurement("r_probability", [*summary_rows(share), *rows, row("r", self.r)], share),
            Measurement("r_probability_low", [], low),
            Measurement("r_probability_high", [], high),
        ]


class LikelihoodDegradation(Metric):
    """|log p(x|mu(x~)) - log p(x|mu(x))| / |log p(x|mu(x))|: how much worse the decoder explains
    the clean x from the embedding of x~. For estimators with a decoder.

    References:
        Camuto et al. (2021), https://arxiv.org/abs/2007.07365, section 5
    """

    name = "likelihood_degradation"

    @override
    def missing(self, task: Task, estimator: Posterior, defense: str) -> str:
        return "" if Encoder(estimator).log_likelihood is not None else "estimator=vae"

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        encoder = Encoder(context.posterior)
        log_likelihood = encoder.log_likelihood
        if not context.attacked or log_likelihood is None or not encoder.applies(context.x[:1]):
            return []

        def degradation(_: Tensor, x: Tensor, x_adv: Tensor) -> Tensor:
            before, after = (log_likelihood(x, encoder(v).mean) for v in (x, x_adv))
            return (after - before).abs() / before.abs()

        values = batched(context, degradation)
        return [Measurement("likelihood_degradation", summary_rows(values), values)]


class ReconstructionDamage(Metric):
    """Mean of |Delta(x~)| over draws, for x~ and for noise of the same size.

    - `damage`: at x~; `damage_noise`: the mean over eight random perturbations of its norm,
      which are within the domain, too;
    - `damage_ratio`: the one over the other, of each observation.

    For Gaussian posteriors, see `robust_npe.encoders`; in units of the decoder's output.

    Args:
        num_samples: Draws of eta for each observation.
    """

    name = "reconstruction_damage"
    version = 2  # noise is as large as the attack, and averaged over directions

    def __init__(self, num_samples: int = 200) -> None:
        name = "metrics.reconstruction_damage.num_samples"
        require_positive_integer(name, num_samples)
        self.num_samples = num_samples

    @override
    def missing(self, task: Task, estimator: Posterior, defense: str) -> str:
        return encoder_missing(estimator, task.dim_x)

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        encoder, ball_of = Encoder(context.posterior), context.ball
        if not context.attacked or ball_of is None or not encoder.applies(context.x[:1]):
            return []
        generator, one = context.generator("reconstruction damage"), ball_of(1.0)

        def damage(_: Tensor, x: Tensor, x_adv: Tensor) -> Tensor:
            ball = ball_of(one.norm(x_adv - x) / one.radius)
            expected = encoder.reconstruct(x)

            def mean(moved: Tensor, num_samples: int) -> Tensor:
                return encoder.deviations(moved, expected, num_samples, generator).mean(0)

            attacked, noise = mean(x_adv, self.num_samples), torch.zeros(len(x)).to(x)
            for _direction in range(DIRECTIONS):
                noisy = ball.filled(x, ball.surface(x, generator))
                noise += mean(noisy, -(-self.num_samples // DIRECTIONS)) / DIRECTIONS
            return torch.stack([attacked, noise], dim=-1)

        attack, noise = batched(context, damage).unbind(-1)
        values = {"damage": attack, "damage_noise": noise, "damage_ratio": attack / noise}
        return [Measurement(name, summary_rows(v), v) for name, v in values.items()]
