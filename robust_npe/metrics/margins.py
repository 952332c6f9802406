"""Margins of Gaussian posteriors: how far x may move before draws leave a ball of radius r.

Definitions and bounds: `robust_npe.encoders`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch
from torch import Tensor
from typing_extensions import override

from robust_npe.attacks import L2, Ball, MaxDamage
from robust_npe.attacks.damage import OfDeviations
from robust_npe.checks import require, require_positive, require_positive_integer
from robust_npe.encoders import (
    Encoder,
    Gaussian,
    clopper_pearson,
    encoder_missing,
    first_order_margins,
)
from robust_npe.metrics.base import Context, Measurement, Metric, summary_rows
from robust_npe.metrics.minimal_radius import smallest_radii, warn_unless_climbed
from robust_npe.metrics.summary import row
from robust_npe.posterior import Posterior
from robust_npe.random import child
from robust_npe.tasks.base import Task

__all__ = ["MarginBound", "MarginMeasured", "NotRobust"]

log = logging.getLogger(__name__)

BOUNDS = ("margin_published", "margin_spectral", "margin_fisher_rao")
INGREDIENTS = ("encoder_std", "encoder_variance", "jacobian_norm")


class NotRobust(OfDeviations):
    """Share of draws with |Delta(x~)| > r, a criterion without a gradient: climb `MaxDamage`.

    Args:
        r: Radius in units of the decoder's output.
        num_samples: Draws of eta.
    """

    name = "not_robust"

    def __init__(self, r: float, num_samples: int = 1000) -> None:
        self.r = r
        self.num_samples = num_samples

    @override
    def _value(self, deviations: Tensor) -> Tensor:
        return (deviations > self.r).to(deviations).mean(0)


class MarginBound(Metric):
    """Lower bounds of the margin to first order in the radius: not a certificate.

    - `margin_published`, `margin_spectral`, `margin_fisher_rao`: see `robust_npe.encoders`; in
      `epsilon_unit`, for `norm=l2`. The probability in them is the lower confidence limit of
      P(|Delta(x)| <= r), so that draws which all stay inside give no infinite margin. What they
      leave out may be of either sign: an attack may break them where the encoder is not linear, or
      (not the last one) where sigma changes;
    - `encoder_std` = min_i sigma_i, `encoder_variance`, the mean of sigma_i^2, and `jacobian_norm`
      = |J|_F, in units of x: what the bounds are made of.

    Measured once, with the clean observations, for Gaussian posteriors.

    References:
        Camuto et al. (2021), https://arxiv.org/abs/2007.07365, theorem 1 for the published one

    Args:
        r: Radius in units of the decoder's output, without one of the prior's standard deviation.
        num_observations: Observations that are looked at, from the first.
        num_samples: Draws behind P.
        confidence: Confidence of its lower limit.
    """

    name = "margin_bound"

    def __init__(
        self,
        r: float = 1.0,
        num_observations: int = 128,
        num_samples: int = 1000,
        confidence: float = 0.95,
    ) -> None:
        name = "metrics.margin_bound"
        require_positive(f"{name}.r", r)
        require_positive_integer(f"{name}.num_observations", num_observations)
        require_positive_integer(f"{name}.num_samples", num_samples)
        require(0 < confidence < 1, f"{name}.confidence", confidence, "between 0 and 1")
        self.r = r
        self.num_observations = num_observations
        self.num_samples = num_samples
        self.confidence = confidence

    @override
    def missing(self, task: Task, estimator: Posterior, defense: str) -> str:
        return encoder_missing(estimator, task.dim_x)

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        ball, encoder = _unit_ball(context), Encoder(context.posterior)
        if context.attacked or not encoder.applies(context.x[:1]):
            return []
        if ball is None:
            log.info("no first-order margins: they need norm=l2")
            return []
        columns, weight = self.measure(context, ball), encoder.kl_weight
        rows = [row("r", self.r)] + ([] if weight is None else [row("kl_weight", weight)])
        return [Measurement(name, summary_rows(v) + rows, v) for name, v in columns.items()]

    @torch.no_grad()
    def measure(self, context: Context, ball: Ball) -> dict[str, Tensor]:
        """Return the measured quantities, each `(B,)`.

        Args:
            context: What is measured.
            ball: The ball of radius 1 in `epsilon_unit`.
        """
        encoder, generator = Encoder(context.posterior), context.generator("margin bound")
        unit = ball.radius * (1.0 if ball.scale is None else ball.scale.to(context.x))
        parts = []
        for x in context.x[: self.num_observations].split(context.batch_size):
            gaussian, jacobian = encoder(x), encoder.jacobian(x)
            expected = encoder.decode(gaussian.mean)
            inside = encoder.deviations(x, expected, self.num_samples, child(generator)) <= self.r
            tail = 1 - self.confidence
            low, _ = clopper_pearson(inside.sum(0), self.num_samples, tail)
            variance = gaussian.scale.square()
            variance = variance if variance.ndim == 2 else variance.sum(-1)
            in_units = Gaussian(*(part * unit for part in jacobian))
            margins = first_order_margins(gaussian, in_units, low.to(x.device))
            norm = torch.linalg.matrix_norm(jacobian.mean)
            parts.append((*margins.T, variance.amin(-1).sqrt(), variance.mean(-1), norm))
        columns = [torch.cat(p) for p in zip(*parts, strict=True)]
        return dict(zip((*BOUNDS, *INGREDIENTS), columns, strict=True))


class MarginMeasured(Metric):
    """Smallest radius at which the run's attack takes r-robustness away: an upper estimate.

    `margin_upper` in `epsilon_unit`, inf where nothing up to `largest` does, see `minimal_radius`.
    A stronger attack can only lower it. One more attack for each bound of `MarginBound` tries the
    bound itself; `broken_<bound>` is the share of observations where that succeeds, of those whose
    bound is not zero (an x that is not robust before the attack has no margin, and no bound).

    Measured once, with the clean observations, for Gaussian posteriors; arguments as for
    `MarginBound` and `MinimalRadius`.

    Args:
        r: See `MarginBound`.
        largest: Largest radius to look at, in `epsilon_unit`.
        num_observations: Observations that are attacked, from the first.
        searches: Attacks on each observation, at most.
        num_samples: Draws behind the criterion.
        bound_samples: `num_samples` of the `MarginBound` that is tried.
        confidence: The same.
    """

    name = "margin_measured"
    version = 2  # the bounds that are tried are those of `MarginBound`, zeros left out

    def __init__(
        self,
        r: float = 1.0,
        largest: float = 4.0,
        num_observations: int = 128,
        searches: int = 10,
        num_samples: int = 1000,
        bound_samples: int = 1000,
        confidence: float = 0.95,
    ) -> None:
        name = "metrics.margin_measured"
        for key, value in {"r": r, "largest": largest, "searches": searches}.items():
            require_positive(f"{name}.{key}", value)
        require_positive_integer(f"{name}.num_observations", num_observations)
        require(num_samples > 3, f"{name}.num_samples", num_samples, "at least 4")
        require_positive_integer(f"{name}.bound_samples", bound_samples)
        require(0 < confidence < 1, f"{name}.confidence", confidence, "between 0 and 1")
        self.r = r
        self.largest = largest
        self.num_observations = num_observations
        self.searches = searches
        self.num_samples = num_samples
        self.bound_samples = bound_samples
        self.confidence = confidence

    @override
    def missing(self, task: Task, estimator: Posterior, defense: str) -> str:
        return encoder_missing(estimator, task.dim_x)

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        if context.attacked or context.attack is None or context.ball is None:
            return []
        if not Encoder(context.posterior).applies(context.x[:1]):
            return []
        warn_unless_climbed(context.attack, MaxDamage.name, self.name)
        sizes = self.largest, self.num_observations, self.searches, self.num_samples
        generator = context.generator("margin measured")
        radii = smallest_radii(context, NotRobust(self.r), 0.5, *sizes, generator)
        rows = [row("r", self.r)]
        ball = _unit_ball(context)
        for name, bound, broken in () if ball is None else self._at_bounds(context, ball):
            radii = torch.where(broken, torch.minimum(radii, bound), radii)
            if bool((bound > 0).any()):
                share = float(broken[bound > 0].double().mean())
                rows.append(row(name.replace("margin", "broken"), share))
        return [Measurement("margin_upper", summary_rows(radii) + rows, radii)]

    @torch.no_grad()
    def _at_bounds(self, context: Context, ball: Ball) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield the name of each bound, the bounds, and where an attack succeeds within them."""
        assert context.attack is not None
        assert context.ball is not None
        given = self.r, self.num_observations, self.bound_samples, self.confidence
        found = MarginBound(*given).measure(context, ball)
        generator, size = context.generator("at the bounds"), context.batch_size
        criterion = NotRobust(self.r, self.num_samples)
        batches = context.x[: self.num_observations].split(size)
        for name in BOUNDS:
            bound, parts = found[name].to(context.x), []
            for x, radius in zip(batches, bound.split(size), strict=True):
                what = context.posterior, x, None
                ball = context.ball(radius)
                x_adv = context.attack(*what, ball=ball, generator=child(generator))
                parts.append(criterion(*what, child(generator))(x_adv) > 0.5)
            yield name, bound, torch.cat(parts) & (bound > 0)


def _unit_ball(context: Context) -> Ball | None:
    """Return the ball of radius 1 in `epsilon_unit`, in units of x where there is no threat model;
    None where it is not an ellipsoid, for which there is no first-order margin here."""
    ball = L2(1.0) if context.ball is None else context.ball(1.0)
    return ball if isinstance(ball, L2) else None
