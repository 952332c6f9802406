"""What an attack climbs: functions of the perturbed observation, bound to a clean one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from robust_npe.checks import require
from robust_npe.divergences import has_closed_form_kl, kl
from robust_npe.random import child, draws_from

__all__ = ["Climb", "KLForward", "KLReverse", "NegativeLogLikelihood", "Objective", "Posterior"]

Posterior = Callable[[Tensor], Distribution]
"""Anything that maps x `(B, Dx)` to a distribution over theta: an estimator, an exact posterior."""

Climb = Callable[[Tensor], Tensor]
"""Maps x~ `(B, Dx)` to the value that the attack increases, `(B,)`."""


class Objective(ABC):
    """A quantity that an attack increases.

    Calling an objective binds it to clean observations and draws its randomness: the returned
    function uses the same random numbers each time (common random numbers), so that differences
    between two x~ are not noise. Bind again for fresh numbers.
    """

    name: str
    needs_theta = False

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


class KLForward(Objective):
    """KL(q(.|x) || q(.|x~)), with fixed samples of the clean posterior.

    Args:
        num_samples: Number of samples; unused where the divergence has a closed form.
    """

    name = "kl_forward"

    def __init__(self, num_samples: int = 5) -> None:
        require(num_samples > 0, "objective.num_samples", num_samples, "a positive integer")
        self.num_samples = num_samples

    def __call__(
        self, posterior: Posterior, x: Tensor, theta: Tensor | None, generator: Generator
    ) -> Climb:
        """See `Objective`."""
        with torch.no_grad():
            clean = posterior(x)
            if has_closed_form_kl(clean, clean):
                return lambda x_adv: kl(clean, posterior(x_adv), 0, generator)
            samples, log_prob = _draw(clean, self.num_samples, generator)
        return lambda x_adv: (log_prob - posterior(x_adv).log_prob(samples)).mean(0)


class KLReverse(Objective):
    """KL(q(.|x~) || q(.|x)), with reparameterised samples from fixed noise.

    Args:
        num_samples: Number of samples; unused where the divergence has a closed form.
    """

    name = "kl_reverse"

    def __init__(self, num_samples: int = 5) -> None:
        require(num_samples > 0, "objective.num_samples", num_samples, "a positive integer")
        self.num_samples = num_samples

    def __call__(
        self, posterior: Posterior, x: Tensor, theta: Tensor | None, generator: Generator
    ) -> Climb:
        """See `Objective`."""
        with torch.no_grad():
            clean = posterior(x)
        state = child(generator).get_state()

        def climb(x_adv: Tensor) -> Tensor:
            same_noise = Generator()
            same_noise.set_state(state)
            return kl(posterior(x_adv), clean, self.num_samples, same_noise)

        return climb


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
        return lambda x_adv: -posterior(x_adv).log_prob(theta)


def _draw(q: Distribution, num_samples: int, generator: Generator) -> tuple[Tensor, Tensor]:
    with draws_from(generator):
        if hasattr(q, "sample_and_log_prob"):
            return q.sample_and_log_prob((num_samples,))
        samples = q.sample((num_samples,))
    return samples, q.log_prob(samples)
