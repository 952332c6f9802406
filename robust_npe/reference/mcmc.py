"""Markov chains where importance sampling fails: ensembles of affine-invariant walkers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Barrier, BrokenBarrierError

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
    from mode to mode. The first half of the steps is warm-up. The likelihoods of all walkers of
    all ensembles are computed together.

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
    together = _Together(target, ensembles)
    jobs = []
    for k in range(ensembles):
        seed = int(torch.randint(2**31 - 1, (), generator=generator))
        first = emcee.State(
            _positions(target, start, walkers, generator),
            random_state=np.random.RandomState(seed).get_state(),
        )
        jobs.append((_sampler(together.density(k), walkers, target.dim), first))

    def run(job: tuple[emcee.EnsembleSampler, emcee.State]) -> None:
        with together.stopping_on_error():
            job[0].run_mcmc(job[1], steps, skip_initial_state_check=True)

    with ThreadPoolExecutor(ensembles) as pool, together.stopping_on_error():
        futures = [pool.submit(run, job) for job in jobs]
        errors = [error for future in futures if (error := future.exception())]
    if errors:  # one failed; the others only tell that they waited in vain
        raise next((e for e in errors if not isinstance(e, BrokenBarrierError)), errors[0])
    samplers = [sampler for sampler, _ in jobs]
    chains = [sampler.get_chain(discard=steps // 2) for sampler in samplers]
    log_targets = [sampler.get_log_prob(discard=steps // 2) for sampler in samplers]
    ess = [chain.shape[0] * walkers / _autocorrelation_times(chain) for chain in chains]
    stacked = torch.from_numpy(np.stack(chains))
    flat, flat_log = stacked.flatten(0, 2), torch.from_numpy(np.stack(log_targets)).flatten()
    order = torch.randperm(len(flat), generator=generator)
    total = np.sum(ess, axis=0).min()
    return Chains(flat[order], flat_log[order], float(total), nested_rhat(stacked))


class _Together:
    """Lets samplers in several threads wait for one another, to compute all densities in one call.

    That is what makes small ensembles affordable where the cost of a call hardly depends on the
    number of parameters. All samplers make the same number of calls: one for the start, and one
    for each half of the walkers in each step.

    Args:
        target: Unnormalised density.
        count: Number of samplers.
    """

    def __init__(self, target: Target, count: int) -> None:
        self.target = target
        self.points = [np.empty((0, target.dim))] * count
        self.values = [np.empty(0)] * count
        self.barrier = Barrier(count, action=self._compute)

    def _compute(self) -> None:
        values = self.target(torch.from_numpy(np.concatenate(self.points))).numpy()
        self.values = np.split(values, np.cumsum([len(z) for z in self.points[:-1]]))

    def density(self, k: int) -> Callable[[np.ndarray], np.ndarray]:
        """Return the log density for the k-th sampler."""

        def log_density(z: np.ndarray) -> np.ndarray:
            self.points[k] = z
            self.barrier.wait()
            return self.values[k]

        return log_density

    @contextmanager
    def stopping_on_error(self) -> Iterator[None]:
        """Do not let the others wait for a sampler that has failed, or after an interrupt."""
        try:
            yield
        except BaseException:
            self.barrier.abort()
            raise


def _autocorrelation_times(chain: np.ndarray) -> np.ndarray:
    """Integrated times in steps, `(D,)`; the length of the chain where a walker never moved."""
    with np.errstate(invalid="ignore", divide="ignore"):
        times = emcee.autocorr.integrated_time(chain, quiet=True, tol=0)
    return np.maximum(np.nan_to_num(times, nan=len(chain)), 1.0)


def _sampler(
    log_density: Callable[[np.ndarray], np.ndarray], walkers: int, dim: int
) -> emcee.EnsembleSampler:
    moves = [
        (emcee.moves.StretchMove(), 0.5),
        (emcee.moves.DEMove(), 0.4),
        (emcee.moves.DEMove(gamma0=1.0), 0.1),
    ]
    return emcee.EnsembleSampler(walkers, dim, log_density, moves=moves, vectorize=True)


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
