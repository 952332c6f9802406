"""Even mixtures: the average of several distributions over theta."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Size, Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from robust_npe.antithetic import Antithetic, antithetic, pair_shape, paired
from robust_npe.posterior import log_prob
from robust_npe.shapes import broadcast_shapes

__all__ = ["EvenMixture"]

ROWS = 2**16  # densities of members that are computed at once: bounds the memory


class EvenMixture(Antithetic, Distribution):
    r"""q(theta) = 1/M sum_m q_m(theta).

    Samples are spread evenly over the members: of S, each gives S/M rounded down or up, in random
    order. Since the weights are constant, samples that are reparameterised within their member have
    unbiased gradients, d/dphi E[h(theta)] = 1/M sum_m E[dh/dtheta dtheta_m/dphi]. Both samples of
    an antithetic pair come from the same member.

    Args:
        parts: The members: distributions of batch shape `(B,)`, or of `(m B,)` for m members in
            one, whose first B elements are the first of them.
        batch_size: B, at least 1.
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012 (torch's interface)
    bounds_itself = True  # see `posterior.log_prob`

    def __init__(self, parts: Sequence[Distribution], batch_size: int) -> None:
        self.parts = list(parts)
        self.num_members = sum(part.batch_shape[0] // batch_size for part in self.parts)
        self.has_rsample = all(part.has_rsample for part in self.parts)
        event_shape = self.parts[0].event_shape
        super().__init__(Size([batch_size]), event_shape, validate_args=False)

    @property
    def support(self) -> Constraint:
        """The set of theta with positive density, which members share."""
        return cast(Constraint, self.parts[0].support)

    def log_prob(self, theta: Tensor) -> Tensor:
        """Return log q(theta) for `theta (*, B, *event_shape)`, shape `(*, B)`."""
        own = self.batch_shape + self.event_shape
        theta = theta.expand(broadcast_shapes(theta.shape, own))
        events = theta.reshape(-1, *own)
        size = max(1, ROWS // (self.num_members * len(events[0])))
        values = torch.cat([self._log_prob(part) for part in events.split(size)])
        return values.reshape(theta.shape[: theta.ndim - len(self.event_shape)])

    def _log_prob(self, theta: Tensor) -> Tensor:
        """Return log q(theta) for `theta (S, B, *event_shape)`, shape `(S, B)`."""
        sums = []
        for part in self.parts:
            copies = theta.repeat(1, part.batch_shape[0] // theta.shape[1], *self._ones)
            values = log_prob(part, copies).unflatten(1, (-1, theta.shape[1]))
            sums.append(values.logsumexp(1))
        return torch.stack(sums).logsumexp(0) - math.log(self.num_members)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw samples of shape `(*sample_shape, B, *event_shape)` without gradient."""
        with torch.no_grad():
            return self._spread(Size(sample_shape), reparameterised=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw samples that are reparameterised within their member, of the same shape."""
        return self._spread(Size(sample_shape), reparameterised=True)

    def sample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Draw samples with their log density, without gradient."""
        with torch.no_grad():
            theta = self.sample(sample_shape)
            return theta, self.log_prob(theta)

    def _spread(self, shape: Size, reparameterised: bool) -> Tensor:
        """Draw samples, or pairs of them if these are wanted, evenly from the members."""
        pairs = self._pairs(shape)
        each = 2 if pairs else 1  # samples that come from a member together
        drawn = pair_shape(shape) if pairs else shape
        count, members = drawn.numel(), self.num_members
        rounds = -(-count // members)
        pool = self._pool(Size([rounds * each]), reparameterised)
        pool = pool.unflatten(0, (rounds, each)).transpose(1, 2).flatten(0, 1)
        index = _evenly(count, members, self.batch_shape[0]).to(pool.device)
        index = index.reshape(count, 1, -1, *self._ones).expand(-1, each, -1, *self.event_shape)
        theta = pool.gather(0, index).transpose(0, 1)
        theta = theta.reshape(each, *drawn, *self.batch_shape, *self.event_shape)
        return paired(theta[0], theta[1], shape[0]) if pairs else theta[0]

    def _pool(self, shape: Size, reparameterised: bool) -> Tensor:
        """Draw from every member: `(S, M, B, *event_shape)`."""
        found = []
        for part in self.parts:
            part = antithetic(part) if self._wants_pairs else part
            theta = part.rsample(shape) if reparameterised else part.sample(shape)
            found.append(theta.unflatten(1, (-1, *self.batch_shape)))
        return torch.cat(found, dim=1)

    @property
    def _ones(self) -> list[int]:
        return [1] * len(self.event_shape)


def _evenly(count: int, members: int, batch_size: int) -> Tensor:
    """Choose `count` of the elements of rounds over all members, `(count, B)`, in random order.

    All of every full round, and of the last one as many as are missing, systematically.
    """
    full, rest = divmod(count, members)
    offset = torch.rand(1, batch_size, dtype=torch.float64)
    last = (torch.arange(rest).unsqueeze(1) + offset) * (members / max(rest, 1))
    last = last.long().clamp(max=members - 1) + full * members
    index = torch.cat((torch.arange(full * members).unsqueeze(1).expand(-1, batch_size), last))
    return index.gather(0, torch.rand(count, batch_size).argsort(0))
