"""Objectives in plain terms: the shift of the mean, the discrepancy of samples, a missed theta."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution
from typing_extensions import override

from robust_npe.antithetic import antithetic
from robust_npe.attacks.objectives import Climb, Objective, sampled
from robust_npe.checks import require, require_positive, require_positive_integer
from robust_npe.discrepancy import median_square, squared_distances, z_scored
from robust_npe.posterior import Posterior, as_events, as_vectors, log_prob, posterior_at
from robust_npe.random import child, draws_from, replay

__all__ = ["CoverageBreaking", "MaximumMeanDiscrepancy", "MeanShift"]

CLEAN = 256  # samples of the clean posterior, drawn once


class MeanShift(Objective):
    """How far the mean moves: the Euclidean norm over parameters of (mean q(.|x~) - mean q(.|x)) in
    standard deviations of q(.|x).

    Means and standard deviations are those of the distribution where it knows them, else of
    samples: means at x and x~ from the same random numbers, so that their errors cancel.

    Args:
        num_samples: Samples of each step, in antithetic pairs. Scores have at least 100.
    """

    name = "mean_shift"

    def __init__(self, num_samples: int = 8) -> None:
        require_positive_integer("objective.num_samples", num_samples)
        self.num_samples = num_samples

    @override
    def __call__(
        self, posterior: Posterior, x: Tensor, theta: Tensor | None, generator: Generator
    ) -> Climb:
        with torch.no_grad():
            clean = posterior_at(posterior, x)
        pool, noise = child(generator), child(generator)
        if (moments := _moments(clean)) is not None:
            mean, std = moments
            return lambda x_adv: _length((_mean_of(posterior(x_adv)) - mean) / std)
        std = _vectors(antithetic(clean), CLEAN, pool)[0].std(0)

        def shift(x_adv: Tensor, num_samples: int, generator: Generator) -> Tensor:
            with torch.no_grad():
                before, _ = _vectors(antithetic(clean), num_samples, replay(generator))
            q = antithetic(posterior(x_adv))
            after, weights = _vectors(q, num_samples, generator)
            mean = (weights.unsqueeze(-1) * after).mean(0)
            return _length((mean - before.mean(0)) / std)

        return sampled(shift, self.num_samples, max(self.num_samples, 100), noise)


class MaximumMeanDiscrepancy(Objective):
    """Squared maximum mean discrepancy between q(.|x) and q(.|x~), see `discrepancy.mmd`.

    The kernel's width is the median distance between samples of q(.|x), where the metric `mmd`
    takes samples of both: the width stays the same while x~ moves.

    Args:
        num_samples: Samples of q(.|x~) in each step, at least 2. Scores have at least 100.
    """

    name = "mmd"

    def __init__(self, num_samples: int = 32) -> None:
        require(num_samples > 1, "objective.num_samples", num_samples, "at least 2")
        self.num_samples = num_samples

    @override
    def __call__(
        self, posterior: Posterior, x: Tensor, theta: Tensor | None, generator: Generator
    ) -> Climb:
        with torch.no_grad():
            samples, _ = _vectors(posterior_at(posterior, x), CLEAN, child(generator))
            before = samples.movedim(0, -2)
            units = z_scored(before, before)[0]
            squares = squared_distances(units, units)
            width = 2 * median_square(squares)[:, None, None]
            within = _mean_off_diagonal(torch.exp(-squares / width), torch.ones_like(units[..., 0]))

        def discrepancy(x_adv: Tensor, num_samples: int, generator: Generator) -> Tensor:
            after, weights = _vectors(posterior(x_adv), num_samples, generator)
            moved, w = z_scored(before, after.movedim(0, -2))[1], weights.mT
            across = torch.exp(-squared_distances(units, moved) / width) * w.unsqueeze(-2)
            kernel = torch.exp(-squared_distances(moved, moved) / width)
            return within + _mean_off_diagonal(kernel, w) - 2 * across.mean((-1, -2))

        return sampled(discrepancy, self.num_samples, max(self.num_samples, 100), generator)


class CoverageBreaking(Objective):
    """Drives the true parameters out of the highest-density regions of q(.|x~).

    That is the share of samples of q(.|x~) with a higher density than theta: the level of the
    smallest region that contains theta. Values are this share; their gradients are those of its
    smooth version, the mean of sigmoid((log q(theta_s|x~) - log q(theta|x~)) / temperature), since
    the share itself has none. It is 1 where theta is outside of all regions: `nll` goes on from
    there.

    Args:
        num_samples: Samples of each step, in antithetic pairs. Scores have at least 100.
        temperature: In nats, positive: a theta that is much further than this from the densities of
            all samples gives no direction.
    """

    name = "coverage"
    needs_theta = True

    def __init__(self, num_samples: int = 16, temperature: float = 1.0) -> None:
        require_positive_integer("objective.num_samples", num_samples)
        require_positive("objective.temperature", temperature)
        self.num_samples = num_samples
        self.temperature = temperature

    @override
    def __call__(
        self, posterior: Posterior, x: Tensor, theta: Tensor | None, generator: Generator
    ) -> Climb:
        if theta is None:
            raise ValueError("objective coverage needs theta, the parameters that generated x.")

        def level(x_adv: Tensor, num_samples: int, generator: Generator) -> Tensor:
            q = posterior_at(posterior, x_adv)
            samples, weights = _draw(antithetic(q), num_samples, generator)
            higher = q.log_prob(samples) - log_prob(q, as_events(q, theta))
            smooth = (weights * torch.sigmoid(higher / self.temperature)).mean(0)
            share = (higher > 0).to(smooth).mean(0)
            broken = higher.isnan().any(0)  # there is no density, so there are no regions
            return torch.where(broken, torch.nan, share + smooth - smooth.detach())

        return sampled(level, self.num_samples, max(self.num_samples, 100), generator)


def _draw(q: Distribution, num_samples: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return samples of q, and weights `(S, B)`, all 1, so that a weighted mean has the gradient of
    the expectation.

    The samples carry it where they are reparameterised. Otherwise the weights do, by the
    score-function estimator; that they sum to S takes the mean as a baseline.
    """
    with draws_from(generator):
        theta = (q.rsample if q.has_rsample else q.sample)((num_samples,))
    ones = torch.ones(theta.shape[: 1 + len(q.batch_shape)], dtype=torch.float64)
    if q.has_rsample:
        return theta, ones.to(theta)
    log_q = q.log_prob(theta)
    weights = torch.exp(log_q - log_q.detach())
    return theta, weights / weights.mean(0)


def _vectors(q: Distribution, num_samples: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return what `_draw` does, samples as vectors `(S, B, D)`."""
    theta, weights = _draw(q, num_samples, generator)
    return as_vectors(q, theta), weights


def _mean_off_diagonal(kernel: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean over pairs of different samples of `kernel (B, M, M)`, `(B,)`."""
    m = kernel.shape[-1]
    total = (weights.unsqueeze(-1) * weights.unsqueeze(-2) * kernel).sum((-1, -2))
    return (total - weights.square().sum(-1)) / (m * (m - 1))


def _moments(q: Distribution) -> tuple[Tensor, Tensor] | None:
    """Return mean and standard deviation of q, `(B, D)`, None where it does not know them."""
    if hasattr(q, "moments"):
        return q.moments()
    try:
        mean, std = q.mean, q.stddev
    except (NotImplementedError, AttributeError):
        return None
    known = bool(mean.isfinite().all() and std.isfinite().all())
    return (as_vectors(q, mean), as_vectors(q, std)) if known else None


def _mean_of(q: Distribution) -> Tensor:
    return q.moments()[0] if hasattr(q, "moments") else as_vectors(q, q.mean)


def _length(shift: Tensor) -> Tensor:
    return torch.linalg.vector_norm(shift, dim=-1)
