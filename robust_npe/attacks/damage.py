"""Objectives against what a Gaussian posterior is used for, see `robust_npe.encoders`."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Generator, Tensor
from typing_extensions import override

from robust_npe.attacks.objectives import Climb, Objective, sampled
from robust_npe.attacks.targets import TowardsAnother
from robust_npe.checks import require_positive_integer
from robust_npe.encoders import Encoder
from robust_npe.posterior import Posterior

__all__ = ["LatentShift", "MaxDamage", "OfDeviations", "TargetedReconstruction"]


class _OfEncoders(Objective):
    """Common part: the posterior must be Gaussian."""

    @override
    def check_posterior(self, posterior: Posterior, x: Tensor) -> None:
        with torch.no_grad():
            Encoder(posterior)(x[:1])


class OfDeviations(_OfEncoders):
    """Common part of objectives of |Delta(x~)|, for new draws of eta at each call.

    Attributes:
        num_samples: Draws of each step.
        least_scored: Draws behind a score, at least.
    """

    num_samples: int
    least_scored: ClassVar[int] = 1

    @override
    def __call__(
        self, posterior: Posterior, x: Tensor, theta: Tensor | None, generator: Generator
    ) -> Climb:
        encoder = Encoder(posterior)
        with torch.no_grad():
            expected = encoder.reconstruct(x)

        def value(x_adv: Tensor, num_samples: int, noise: Generator) -> Tensor:
            return self._value(encoder.deviations(x_adv, expected, num_samples, noise))

        return sampled(value, self.num_samples, max(self.num_samples, self.least_scored), generator)

    @abstractmethod
    def _value(self, deviations: Tensor) -> Tensor:
        """Return the values `(B,)` for deviations `(S, B)`."""


class MaxDamage(OfDeviations):
    """E |g(mu(x~) + sigma(x~) eta) - g(mu(x))| over eta ~ N(0, I): the decoder's output, or the
    posterior draw itself where there is no decoder, is to be far from what it was.

    References:
        Camuto et al. (2021), https://arxiv.org/abs/2007.07365, equation (2), for a single eta

    Args:
        num_samples: Draws of eta in each step, new ones each time. Scores have at least 100.
    """

    name = "max_damage"
    least_scored = 100

    def __init__(self, num_samples: int = 4) -> None:
        require_positive_integer("objective.num_samples", num_samples)
        self.num_samples = num_samples

    @override
    def _value(self, deviations: Tensor) -> Tensor:
        return deviations.mean(0)


class _Targeted(TowardsAnother, _OfEncoders):
    """Common part of attacks towards what another observation's Gaussian says."""

    @override
    def check_posterior(self, posterior: Posterior, x: Tensor) -> None:
        super().check_posterior(posterior, x)
        _OfEncoders.check_posterior(self, posterior, x)

    @override
    def __call__(
        self, posterior: Posterior, x: Tensor, theta: Tensor | None, generator: Generator
    ) -> Climb:
        encoder = Encoder(posterior)
        with torch.no_grad():
            wanted = self._output(encoder, self.targets(x))
        return lambda x_adv: -(self._output(encoder, x_adv) - wanted).norm(dim=-1)

    @abstractmethod
    def _output(self, encoder: Encoder, x: Tensor) -> Tensor:
        """What is to be that of the target, `(B, *)`."""


class LatentShift(_Targeted):
    """-|mu(x~) - mu(x_target)|: the embedding of x is to be that of a target.

    References:
        Tabacof, Tavares & Valle (2016), "Adversarial images for variational autoencoders",
        https://arxiv.org/abs/1612.00155

        Kos, Fischer & Song (2018), "Adversarial examples for generative models",
        https://arxiv.org/abs/1702.06832 (the latent attack)

    Args:
        shift: See `TowardsAnother`.
    """

    name = "latent_shift"

    @override
    def _output(self, encoder: Encoder, x: Tensor) -> Tensor:
        return encoder(x).mean


class TargetedReconstruction(_Targeted):
    """-|g(mu(x~)) - g(mu(x_target))|: the reconstruction of x is to be that of a target.

    References:
        Kos, Fischer & Song (2018), https://arxiv.org/abs/1702.06832, with the target's own
        reconstruction in the place of the target, so that it can be reached

    Args:
        shift: See `TowardsAnother`.
    """

    name = "targeted_reconstruction"

    @override
    def _output(self, encoder: Encoder, x: Tensor) -> Tensor:
        return encoder.reconstruct(x)
