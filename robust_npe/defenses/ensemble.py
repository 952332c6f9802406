"""Ensembles: the average of the posteriors of several networks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from typing_extensions import override

from robust_npe.checks import require_positive_integer
from robust_npe.defenses.base import Defense
from robust_npe.defenses.post_hoc import PostHoc
from robust_npe.mixtures import EvenMixture
from robust_npe.posterior import Posterior
from robust_npe.tasks.base import Task

__all__ = ["Ensemble", "EnsemblePosterior"]


class EnsemblePosterior(nn.Module):
    """x -> 1/M sum_m q_m(.|x).

    Args:
        posteriors: The members, of which samples have the same shape.
    """

    def __init__(self, posteriors: Sequence[Posterior]) -> None:
        super().__init__()
        self.posteriors = list(posteriors)
        modules = [member for member in posteriors if isinstance(member, nn.Module)]
        self.networks = nn.ModuleList(modules)  # so that they move, and are frozen, with this

    def forward(self, x: Tensor) -> EvenMixture:
        """Return the mixture for `x (B, Dx)`."""
        return EvenMixture([posterior(x) for posterior in self.posteriors], len(x))


class Ensemble(PostHoc):
    """Average of the posteriors of networks that differ by their seeds.

    They are trained on the same simulations, from other initial weights and in another order. The
    first one is the network that `base` alone gives with the same seed.

    References:
        Lakshminarayanan, Pritzel & Blundell (2017), "Simple and scalable predictive uncertainty
        estimation using deep ensembles", https://arxiv.org/abs/1612.01474

    Args:
        base: What each network is trained with.
        members: Number of posteriors of the base, M.
    """

    name = "ensemble"

    def __init__(self, base: Defense, members: int = 5) -> None:
        super().__init__(base)
        require_positive_integer("defense.members", members)
        self.members = self.copies = members

    @override
    def combine(self, posteriors: Sequence[Posterior], task: Task) -> EnsemblePosterior:
        return EnsemblePosterior(posteriors)
