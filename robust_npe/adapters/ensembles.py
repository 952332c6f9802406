"""Ensembles whose members may have unequal weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from robust_npe.adapters.prior_draws import PriorDraws, PriorDrawsPosterior
from robust_npe.mixtures import EvenMixture
from robust_npe.posterior import Posterior, log_prob

__all__ = ["Mixture", "WeightedEnsemble"]


class WeightedEnsemble(nn.Module):
    """q(theta|x) = sum_m w_m q_m(theta|x).

    Args:
        members: The posteriors q_m.
        weights: Their weights w_m, `(M,)`, positive; they are normalised.
    """

    def __init__(self, members: Sequence[Posterior], weights: Tensor) -> None:
        super().__init__()
        self.members = list(members)
        self.modules_of_members = nn.ModuleList(m for m in members if isinstance(m, nn.Module))
        self.weights = torch.as_tensor(weights) / torch.as_tensor(weights).sum()

    def forward(self, x: Tensor) -> Distribution:
        """Return q(.|x) for `x (B, Dx)`."""
        parts = [member(x) for member in self.members]
        if all(isinstance(part, PriorDraws) for part in parts):  # over the same draws
            draws = cast(list[PriorDraws], parts)
            probs = torch.stack([w * q.probs for w, q in zip(self.weights, draws, strict=True)])
            return PriorDraws(probs.sum(0).log(), draws[0].values)
        if (self.weights == self.weights[0]).all():
            return EvenMixture(parts, len(x))
        return Mixture(parts, self.weights)

    def over_theta(self, x: Tensor) -> Distribution:
        """Return q(.|x) over theta itself where members are weights on draws from the prior."""
        if not all(isinstance(member, PriorDrawsPosterior) for member in self.members):
            return self(x)
        members = cast(list[PriorDrawsPosterior], self.members)
        return Mixture([member.over_theta(x) for member in members], self.weights)


class Mixture(Distribution):
    """A mixture of distributions of batch shape `(B,)`; samples carry no gradient.

    Args:
        parts: The members.
        weights: Their probabilities, `(M,)`.
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012 (torch's interface)
    bounds_itself = True  # see `posterior.log_prob`
    has_rsample = False

    def __init__(self, parts: Sequence[Distribution], weights: Tensor) -> None:
        self.parts = list(parts)
        self.weights = weights
        super().__init__(parts[0].batch_shape, parts[0].event_shape, validate_args=False)

    def log_prob(self, theta: Tensor) -> Tensor:
        """Return log q(theta) for `theta (*, B, *event_shape)`, shape `(*, B)`."""
        pairs = zip(self.weights, self.parts, strict=True)
        terms = [weight.log() + log_prob(part, theta) for weight, part in pairs]
        return torch.stack(terms).logsumexp(0)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw samples of shape `(*sample_shape, B, *event_shape)`."""
        shape = Size(sample_shape)
        drawn = torch.stack([q.sample(shape) for q in self.parts])
        count = shape.numel() * self.batch_shape.numel()
        index = self.weights.multinomial(count, replacement=True).to(drawn.device)
        index = index.reshape(1, *shape, *self.batch_shape, *(1 for _ in self.event_shape))
        return drawn.gather(0, index.expand_as(drawn[:1]))[0]
