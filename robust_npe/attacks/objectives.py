"""What an attack climbs: functions of the perturbed observation, bound to a clean one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import cycle

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution
from typing_extensions import override

from robust_npe.antithetic import antithetic
from robust_npe.checks import require_positive_integer
from robust_npe.components import Component
from robust_npe.divergences import has_closed_form_kl, kl, kl_with_error, mean_with_error
from robust_npe.posterior import (
    Posterior,
    as_events,
    gradient,
    log_prob,
    posterior_at,
    sample_and_log_prob,
)
from robust_npe.random import child, draws_from, replay

__all__ = [
    "Climb",
    "KLForward",
    "KLReverse",
    "NegativeLogLikelihood",
    "Objective",
    "Sampled",
    "sampled",
    "usable",
    "value_and_slope",
    "with_samples",
]

Climb = Callable[[Tensor], Tensor]
"""Maps x~ `(B, Dx)` to the value that the attack increases, `(B,)`. Equal x~ give equal values."""


@dataclass(frozen=True)
class Sampled:
    """A `Climb` that is estimated from samples.

    Calling it scores x~ with many samples, the same ones each time. An attack's steps use `step`
    instead: few samples, new ones each time. Steps on the same few samples would climb the noise
    in them; fresh ones average it out, which finds stronger attacks at the same price.

    Attributes:
        score: Maps x~ `(B, Dx)` to `(B,)`.
        step: Noisier and cheaper, for gradients.
        fixed: Maps a number of samples to a score with that many, the same ones each time.
    """

    score: Climb
    step: Climb
    fixed: Callable[[int], Climb] | None = None

    def __call__(self, x_adv: Tensor) -> Tensor:
        """Score x~."""
        return self.score(x_adv)


def value_and_slope(climb: Climb, x_adv: Tensor) -> tuple[Tensor, Tensor]:
    """Return the value of a climb at x~ `(B, Dx)` and its gradient there, without graph."""
    x_adv = x_adv.detach().requires_grad_(True)
    with torch.enable_grad():
        value = climb(x_adv)
        slope = gradient(value, x_adv)
    return value.detach(), slope


def usable(slope: Tensor) -> Tensor:
    """Tell where a gradient `(B, Dx)` is neither zero nor infinite or missing, bool `(B,)`."""
    largest = slope.abs().amax(-1)
    return (largest > 0) & (largest < torch.inf)


def with_samples(climb: Climb, num_samples: int) -> Climb:
    """Return values that can be compared with each other (common random numbers), from this number
    of samples where the climb is estimated from samples and offers the choice."""
    if not isinstance(climb, Sampled):
        return climb
    return climb.score if climb.fixed is None else climb.fixed(num_samples)


Value = Callable[[Tensor, int, Generator], Tensor]


def sampled(
    value: Value, steps: int, scores: int, generator: Generator, compared: Value | None = None
) -> Sampled:
    """Return the climb of a value of x~ that draws its samples anew in every call.

    Args:
        value: Maps x~, a number of samples and their source to `(B,)`.
        steps: Samples of each step.
        scores: Samples of scores.
        generator: Source of randomness.
        compared: A more accurate value for comparisons without graph (`Sampled.fixed`).
    """
    scoring, stepping = child(generator), child(generator)

    def fixed(num_samples: int) -> Climb:
        def evaluated(x_adv: Tensor) -> Tensor:
            chosen = value if compared is None or x_adv.requires_grad else compared
            return chosen(x_adv, num_samples, replay(scoring))

        return evaluated

    return Sampled(
        lambda x_adv: value(x_adv, scores, replay(scoring)),
        lambda x_adv: value(x_adv, steps, stepping),
        fixed,
    )


class Objective(Component, ABC):
    """A quantity that an attack increases.

    Calling an objective binds it to clean observations and draws its randomness: values of the
    returned function can be compared with each other (common random numbers). Bind again for
    fresh numbers.

    Constructor arguments are kept as attributes of the same name.

    Attributes:
        rowwise: Whether the value of one observation is independent of the others in the batch.
    """

    rowwise: bool = True

    def check(self, dim_theta: int) -> None:
        """Raise a `ConfigError` where the objective does not fit parameters of this dimension."""

    def check_posterior(self, posterior: Posterior, x: Tensor) -> None:
        """Raise a `ConfigError` where the objective does not fit this kind of posterior, or a batch
        of the shape of `x (B, Dx)`."""

    @abstractmethod
    def __call__(
        self, posterior: Posterior, x: Tensor, theta: Tensor | None, generator: Generator
    ) -> Climb:
        """Bind the objective.

        Args:
            posterior: What is attacked.
            x: Clean observations of shape `(B, Dx)`.
            theta: The parameters that generated x, shape `(B, D)`; only some objectives use them.
            generator: Source of randomness.
        """


class _Divergence(Objective):
    """Common part of the divergences, which are in closed form where there is one.

    Args:
        num_samples: Samples of each step, an antithetic pair by default. Scores have at least
            100.
    """

    def __init__(self, num_samples: int = 2) -> None:
        require_positive_integer("objective.num_samples", num_samples)
        self.num_samples = num_samples
        self.num_score_samples = max(num_samples, 100)

    @override
    def __call__(
        self, posterior: Posterior, x: Tensor, theta: Tensor | None, generator: Generator
    ) -> Climb:
        with torch.no_grad():
            clean = posterior_at(posterior, x)
        if not has_closed_form_kl(clean, clean):
            return self._sampled(posterior, clean, generator)
        # a closed form for equal transforms of a distribution, say, may not be one for others
        n, noise = self.num_score_samples, child(generator)
        return lambda x_adv: self._direction(clean, posterior(x_adv), n, replay(noise))

    @abstractmethod
    def _direction(self, clean: Distribution, moved: Distribution, n: int, g: Generator) -> Tensor:
        """The divergence of this direction."""

    @abstractmethod
    def _sampled(self, posterior: Posterior, clean: Distribution, generator: Generator) -> Sampled:
        """The estimate from samples."""


class KLForward(_Divergence):
    """KL(q(.|x) || q(.|x~)), with samples of the clean posterior.

    The samples do not depend on x~: a pool of them is drawn once, and steps cycle through it.

    Args:
        num_samples: Samples of each step, an antithetic pair by default. Scores have at least
            100.
        pool: Number of samples in the pool, at least `num_samples`.
    """

    name = "kl_forward"

    def __init__(self, num_samples: int = 2, pool: int = 200) -> None:
        require_positive_integer("objective.pool", pool)
        super().__init__(num_samples)
        self.pool = pool

    def _direction(self, clean: Distribution, moved: Distribution, n: int, g: Generator) -> Tensor:
        return kl(clean, moved, n, g)

    def _sampled(self, posterior: Posterior, clean: Distribution, generator: Generator) -> Sampled:
        scoring, stepping = child(generator), child(generator)

        @cache  # drawn when first needed: an attack scores with one binding, climbs with another
        def drawn(num_samples: int) -> tuple[Tensor, Tensor]:
            return _draw(clean, num_samples, replay(scoring))

        @cache
        def groups() -> Iterator[tuple[Tensor, Tensor]]:
            size = self.num_samples
            samples, log_p = _draw(clean, max(self.pool, size), stepping)
            return cycle(zip(samples.split(size), log_p.split(size), strict=True))

        def terms(x_adv: Tensor, samples: Tensor, log_p: Tensor) -> Tensor:
            return log_p - log_prob(posterior(x_adv), samples)

        def score(x_adv: Tensor) -> Tensor:
            return terms(x_adv, *drawn(self.num_score_samples)).mean(0)

        def step(x_adv: Tensor) -> Tensor:
            return terms(x_adv, *next(groups())).mean(0)

        def fixed(num_samples: int) -> Climb:
            def value(x_adv: Tensor) -> Tensor:
                ratios = terms(x_adv, *drawn(num_samples))
                if ratios.requires_grad:  # a control variate is for comparing, not for climbing
                    return ratios.mean(0)
                return mean_with_error(ratios, paired=clean.has_rsample)[0]

            return value

        return Sampled(score, step, fixed)


class KLReverse(_Divergence):
    """KL(q(.|x~) || q(.|x)), with samples of the attacked posterior, reparameterised where it can.

    Args:
        num_samples: Samples of each step, an antithetic pair by default. Scores have at least
            100.
    """

    name = "kl_reverse"

    def _direction(self, clean: Distribution, moved: Distribution, n: int, g: Generator) -> Tensor:
        return kl(moved, clean, n, g)

    def _sampled(self, posterior: Posterior, clean: Distribution, generator: Generator) -> Sampled:
        def value(x_adv: Tensor, num_samples: int, noise: Generator) -> Tensor:
            return kl(posterior(x_adv), clean, num_samples, noise)

        def compared(x_adv: Tensor, num_samples: int, noise: Generator) -> Tensor:
            return kl_with_error(posterior(x_adv), clean, num_samples, noise)[0]

        return sampled(value, self.num_samples, self.num_score_samples, generator, compared)


class NegativeLogLikelihood(Objective):
    """-log q(theta|x~) of the parameters that generated x: makes the truth improbable."""

    name = "nll"
    needs_theta = True

    def __call__(
        self, posterior: Posterior, x: Tensor, theta: Tensor | None, generator: Generator
    ) -> Climb:
        """See `Objective`.

        Raises:
            ValueError: theta is missing.
        """
        if theta is None:
            raise ValueError("objective nll needs theta, the parameters that generated x.")

        def climb(x_adv: Tensor) -> Tensor:
            q = posterior_at(posterior, x_adv)
            return -log_prob(q, as_events(q, theta))

        return climb


def _draw(q: Distribution, num_samples: int, generator: Generator) -> tuple[Tensor, Tensor]:
    with draws_from(generator):
        return sample_and_log_prob(antithetic(q), (num_samples,))
