"""How good the approximations of post-hoc defenses are."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from robust_npe.checks import require_positive_integer
from robust_npe.defenses import Resampled, Resampling, SmoothedPosterior, Smoothing
from robust_npe.divergences import kl
from robust_npe.metrics.base import Context, Measurement, Metric, batched, summary_rows
from robust_npe.posterior import Posterior, as_events, log_prob, posterior_at
from robust_npe.tasks.base import Task

__all__ = ["EffectiveSize", "SmoothingBias"]


class EffectiveSize(Metric):
    """Share of effective samples at x~ of a posterior made by `Resampling`, in [0, 1].

    Near 1/K one of K proposals has all the weight. A large share is not proof: it is that of the
    places where there are proposals.
    """

    name = "effective_size"

    @override
    def missing(self, task: Task, estimator: Posterior, defense: str) -> str:
        return "" if defense == Resampling.name else f"defense={Resampling.name}"

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        if not isinstance(context.q(context.x_adv[:1]), Resampled):
            return []

        def share(_: Tensor, __: Tensor, x_adv: Tensor) -> Tensor:
            q = context.q(x_adv)
            assert isinstance(q, Resampled)
            return q.effective_size / len(q.proposals)

        values = batched(context, share)
        return [Measurement("effective_size", summary_rows(values), values)]


class SmoothingBias(Metric):
    """What a posterior made by `Smoothing` changes by when its draws are doubled.

    `smoothing_bias` is the change of log q_s(theta|x~) at the parameters that generated x, and
    `smoothing_bias_kl`, where x~ is attacked, that of KL(q_s(.|x) || q_s(.|x~)), in nats. The error
    from a finite number of draws is about twice that.

    Args:
        num_samples: Monte-Carlo samples of the divergence.
    """

    name = "smoothing_bias"

    def __init__(self, num_samples: int = 256) -> None:
        require_positive_integer("metrics.smoothing_bias.num_samples", num_samples)
        self.num_samples = num_samples

    @override
    def missing(self, task: Task, estimator: Posterior, defense: str) -> str:
        return "" if defense == Smoothing.name else f"defense={Smoothing.name}"

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        posterior = context.posterior
        if not isinstance(posterior, SmoothedPosterior):
            return []
        finer = posterior.with_draws(2 * posterior.draws)

        def density(q: Posterior) -> Tensor:
            return batched(context, lambda theta, _, x_adv: _log_density(q, theta, x_adv))

        def divergence(q: Posterior) -> Tensor:
            n, generator = self.num_samples, context.generator("smoothing_bias")
            return batched(context, lambda _, x, x_adv: kl(q(x), q(x_adv), n, generator))

        found = {"smoothing_bias": density(finer) - density(posterior)}
        if context.attacked:
            found["smoothing_bias_kl"] = divergence(finer) - divergence(posterior)
        return [Measurement(name, summary_rows(v), v) for name, v in found.items()]


def _log_density(posterior: Posterior, theta: Tensor, x: Tensor) -> Tensor:
    q = posterior_at(posterior, x)
    return log_prob(q, as_events(q, theta))
