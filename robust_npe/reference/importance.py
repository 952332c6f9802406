"""Adaptive importance sampling that starts wide, with a prior it can always fall back on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from robust_npe.reference.diagnostics import effective_size
from robust_npe.reference.proposals import Proposal, StudentMixture
from robust_npe.reference.target import ImpossibleObservationError, Target

__all__ = ["Adapted", "Population", "adapt", "resample"]

FIT_SIZE = 4000  # resampled points that a mixture is fitted to
GOOD_ENOUGH = 0.5  # share of effective samples at which there is little left to gain


class Population:
    """Weighted samples from several proposals, weighted as draws from their joint mixture.

    The weight of z is p(x, z) over the mixture of all proposals in the proportions in which they
    were drawn from ("deterministic mixture", "balance heuristic"). So no weight is larger than
    the best proposal at that point allows, and proposals may join later.

    References:
        Cornuet, Marin, Mira & Robert (2012), "Adaptive multiple importance sampling",
        https://arxiv.org/abs/0907.1254

    Args:
        target: Unnormalised density.
        proposals: Proposals to start with.
    """

    def __init__(self, target: Target, proposals: Sequence[Proposal]) -> None:
        self.target = target
        self.proposals = list(proposals)
        self.counts = [0] * len(self.proposals)
        self.z = torch.empty(0, target.dim, dtype=torch.float64)
        self.log_target = torch.empty(0, dtype=torch.float64)
        self.log_proposals = torch.empty(0, len(self.proposals), dtype=torch.float64)

    def add(self, proposal: Proposal) -> None:
        """Let a proposal join, from which nothing has been drawn yet."""
        self.proposals.append(proposal)
        self.counts.append(0)
        column = proposal.log_prob(self.z)[:, None]
        self.log_proposals = torch.cat((self.log_proposals, column), dim=1)

    def draw(self, counts: Sequence[int], generator: Generator) -> None:
        """Draw so many samples from each proposal."""
        pairs = zip(self.proposals, counts, strict=True)
        z = torch.cat([p.sample(n, generator) for p, n in pairs if n > 0])
        # a proposal may leave the range of numbers; such draws weigh nothing
        z = torch.where(z.isfinite(), z, torch.inf)
        columns = [p.log_prob(z) for p in self.proposals]
        self.z = torch.cat((self.z, z))
        self.log_target = torch.cat((self.log_target, self.target(z)))
        self.log_proposals = torch.cat((self.log_proposals, torch.stack(columns, 1)))
        self.counts = [a + b for a, b in zip(self.counts, counts, strict=True)]

    @property
    def log_weights(self) -> Tensor:
        """Unnormalised log weights `(N,)`; the mean of their exponentials estimates p(x)."""
        return self.weights_of(slice(None), self.counts)

    def weights_of(self, part: slice, counts: Sequence[int]) -> Tensor:
        """Log weights of a part of the samples, drawn in these counts."""
        share = torch.tensor(counts, dtype=torch.float64)
        mixture = torch.logsumexp(self.log_proposals[part] + (share / share.sum()).log(), dim=1)
        value = self.log_target[part] - mixture
        return torch.where(self.log_target[part] > -torch.inf, value, -torch.inf)

    @property
    def log_evidence(self) -> float:
        """Estimate of log p(x)."""
        log_weights = self.log_weights
        total = torch.logsumexp(log_weights, 0)
        return float(total - torch.tensor(float(len(log_weights))).log())


@dataclass(frozen=True)
class Adapted:
    """What the adaptation found.

    Attributes:
        mixture: Proposal fitted to the posterior.
        z: Points spread over where the posterior is, shape `(N, D)`.
        rounds: Number of rounds.
    """

    mixture: StudentMixture
    z: Tensor
    rounds: int


def adapt(
    target: Target,
    proposals: Sequence[Proposal],
    batch: int,
    max_rounds: int,
    defensive: float,
    generator: Generator,
) -> Adapted:
    """Fit a mixture to the posterior, round by round.

    Weights are flattened (raised to a power of at most 1) until enough samples count, a mixture
    is fitted to them and drawn from, and so on: a path from the proposals to the posterior. A
    share of every round comes from the given proposals, so that a mode that was missed can still
    be found; all samples of all rounds are used.

    Args:
        target: Unnormalised density.
        proposals: Where to start, the prior among them.
        batch: Samples per round.
        max_rounds: Rounds at most.
        defensive: Share of every round that comes from `proposals`.
        generator: Source of randomness.

    Raises:
        ImpossibleObservationError: No sample has a positive likelihood.
    """
    population = Population(target, proposals)
    counts = shares(batch, [1 / len(proposals)] * len(proposals))
    previous = 0.0
    wanted = batch / 4  # enough for a mixture of several components
    for rounds in range(1, max_rounds + 1):
        population.draw(counts, generator)
        latest = effective_size(population.weights_of(slice(-batch, None), counts)) / batch
        flat, power = _flattened(population.log_weights, wanted)
        z = population.z[resample(flat, FIT_SIZE, generator)]
        mixture = StudentMixture.fit(z, generator, effective_size(flat))
        settled = latest > GOOD_ENOUGH or (rounds > 2 and latest < 1.1 * previous)
        if power == 1.0 and settled:
            break
        previous = latest if power == 1.0 else 0.0
        population.add(mixture)
        old = [defensive / len(proposals)] * len(proposals) + [0.0] * (rounds - 1)
        counts = shares(batch, [*old, 1 - defensive])
    return Adapted(mixture, z, rounds)


def shares(total: int, fractions: Sequence[float]) -> list[int]:
    """Divide a total into whole numbers; the last one takes what rounding leaves."""
    counts = [round(total * fraction) for fraction in fractions[:-1]]
    return [*counts, total - sum(counts)]


def resample(log_weights: Tensor, num_samples: int, generator: Generator) -> Tensor:
    """Draw indices in proportion to weights `(N,)`, systematically and in random order."""
    cumulative = torch.softmax(log_weights, 0).cumsum(0)
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    grid = (torch.arange(num_samples) + offset) / num_samples
    index = torch.searchsorted(cumulative / cumulative[-1], grid).clamp(max=len(log_weights) - 1)
    return index[torch.randperm(num_samples, generator=generator)]


def _flattened(log_weights: Tensor, wanted: float) -> tuple[Tensor, float]:
    """Return the weights raised to the largest power in (0, 1] with enough effective samples."""
    possible = log_weights > -torch.inf
    if not bool(possible.any()):
        raise ImpossibleObservationError(
            f"None of {len(log_weights)} parameters from prior and proposals has a positive "
            "likelihood: under this task the observation is impossible. Check that x is in the "
            "task's domain (domain=task keeps attacks inside of it)."
        )

    def powered(power: float) -> Tensor:
        return torch.where(possible, power * log_weights, -torch.inf)

    wanted = min(wanted, 0.5 * float(possible.sum()))
    if effective_size(log_weights) >= wanted:
        return log_weights, 1.0
    low, high = 1e-12, 1.0
    for _ in range(60):
        middle = (low * high) ** 0.5
        if effective_size(powered(middle)) >= wanted:
            low = middle
        else:
            high = middle
    return powered(low), low
