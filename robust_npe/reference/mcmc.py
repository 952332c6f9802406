"""Markov chains where importance sampling fails: ensembles of affine-invariant walkers."""

from __future__ import annotations

from dataclasses import dataclass

import emcee
import numpy as np
import torch
from torch import Generator, Tensor

from robust_npe.reference.diagnostics import nested_rhat
from robust_npe.reference.proposals import StudentMixture
from robust_npe.reference.target import Target

__all__ = ["Chains", "bridge_evidence", "run_chains"]


@dataclass(frozen=True)
class Chains:
    """Draws of all ensembles after warm-up.

    Attributes:
        z: Shape `(N, D)`, in random order.
        log_target: Log density of the draws, shape `(N,)`.
        ess: Effective number of draws, the smallest over dimensions.
        rhat: Nested split R-hat, the largest over dimensions.
    """

    z: Tensor
    log_target: Tensor
    ess: float
    rhat: float


def run_chains(
    target: Target,
    start: Tensor,
    walkers: int,
    steps: int,
    generator: Generator,
    ensembles: int = 4,
) -> Chains:
    """Run independent ensembles from points spread over the posterior.

    Half of the moves stretch, the others are differential evolution, some of them with jumps
    from mode to mode. The first half of the steps is warm-up.

    References:
        Foreman-Mackey, Hogg, Lang & Goodman (2013), "emcee: the MCMC hammer",
        https://arxiv.org/abs/1202.3665

    Args:
        target: Unnormalised density.
        start: Points to start from, shape `(N, D)`.
        walkers: Walkers of each ensemble, even and at least 2 D.
        steps: Steps of each ensemble, warm-up included.
        generator: Source of randomness.
        ensembles: Number of independent ensembles.
    """
    walkers = max(walkers, 2 * target.dim + 2)
    chains, log_targets = [], []
    for _ in range(ensembles):
        seed = int(torch.randint(2**31 - 1, (), generator=generator))
        first = emcee.State(
            _positions(target, start, walkers, generator),
            random_state=np.random.RandomState(seed).get_state(),
        )
        sampler = _sampler(target, walkers)
        sampler.run_mcmc(first, steps, skip_initial_state_check=True)
        chains.append(sampler.get_chain(discard=steps // 2))
        log_targets.append(sampler.get_log_prob(discard=steps // 2))
    ess = [chain.shape[0] * walkers / _autocorrelation_times(chain) for chain in chains]
    stacked = torch.from_numpy(np.stack(chains))
    flat, flat_log = stacked.flatten(0, 2), torch.from_numpy(np.stack(log_targets)).flatten()
    order = torch.randperm(len(flat), generator=generator)
    total = np.sum(ess, axis=0).min()
    return Chains(flat[order], flat_log[order], float(total), nested_rhat(stacked))


def _autocorrelation_times(chain: np.ndarray) -> np.ndarray:
    """Integrated times in steps, `(D,)`; the length of the chain where a walker never moved."""
    with np.errstate(invalid="ignore", divide="ignore"):
        times = emcee.autocorr.integrated_time(chain, quiet=True, tol=0)
    return np.maximum(np.nan_to_num(times, nan=len(chain)), 1.0)


def _sampler(target: Target, walkers: int) -> emcee.EnsembleSampler:
    def log_density(z: np.ndarray) -> np.ndarray:
        return target(torch.from_numpy(z)).numpy()

    moves = [
        (emcee.moves.StretchMove(), 0.5),
        (emcee.moves.DEMove(), 0.4),
        (emcee.moves.DEMove(gamma0=1.0), 0.1),
    ]
    return emcee.EnsembleSampler(walkers, target.dim, log_density, moves=moves, vectorize=True)


def _positions(target: Target, start: Tensor, walkers: int, generator: Generator) -> np.ndarray:
    """Choose starting points of positive density; repeated ones are moved apart a little."""
    index = torch.randint(len(start), (walkers,), generator=generator)
    z = start[index]
    noise = torch.randn(z.shape, generator=generator, dtype=torch.float64)
    moved = z + 1e-2 * start.std(0) * noise
    alive = (target(moved) > -torch.inf)[:, None]
    return torch.where(alive, moved, z).numpy()


def bridge_evidence(
    target: Target, chains: Chains, num_samples: int, generator: Generator
) -> float:
    """Estimate log p(x) from draws of the posterior by bridge sampling.

    A mixture is fitted to one half of the draws; the other half and as many draws from the
    mixture give the estimate that is best for independent samples.

    References:
        Meng & Wong (1996), "Simulating ratios of normalizing constants via a simple identity",
        Statistica Sinica 6.

    Args:
        target: Unnormalised density.
        chains: Draws of the posterior.
        num_samples: Draws from each side.
        generator: Source of randomness.
    """
    z, log_target = chains.z, chains.log_target
    half = len(z) // 2
    mixture = StudentMixture.fit(z[:half][:6000], generator, chains.ess / 2)
    count = min(num_samples, half)
    kept, drawn = z[half : half + count], mixture.sample(count, generator)
    at_kept = log_target[half : half + count] - mixture.log_prob(kept)
    at_drawn = target(drawn) - mixture.log_prob(drawn)
    log_z = at_kept.median()
    for _ in range(200):
        numerator = -torch.nn.functional.softplus(log_z - at_drawn)
        denominator = -torch.nn.functional.softplus(at_kept - log_z) - log_z
        update = torch.logsumexp(numerator, 0) - torch.logsumexp(denominator, 0)
        if bool((update - log_z).abs() < 1e-8):
            break
        log_z = update
    return float(log_z)
