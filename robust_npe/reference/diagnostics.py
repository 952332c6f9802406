"""Numbers that tell whether samples of a posterior can be trusted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "MAX_PARETO_K",
    "MAX_RHAT",
    "effective_draws",
    "effective_size",
    "nested_rhat",
    "pareto_k",
    "split_rhat",
]

MAX_PARETO_K = 0.7
MAX_RHAT = 1.01


def effective_size(log_weights: Tensor) -> float:
    """Return Kish's effective number of samples (sum w)^2 / sum w^2 of log weights `(N,)`."""
    if not bool((log_weights > -torch.inf).any()):
        return 0.0
    weights = torch.softmax(log_weights.double(), 0)
    return float(1 / weights.square().sum())


def pareto_k(log_weights: Tensor) -> float:
    """Return the shape of a generalised Pareto distribution fitted to the largest weights.

    Moments of the weights above order 1/k do not exist: below 0.7 the estimates converge at a
    useful speed, above they depend on a few samples. Weights without any tail (all equal) give 0,
    too few positive ones give infinity.

    References:
        Vehtari, Simpson, Gelman, Yao & Gabry (2024), "Pareto smoothed importance sampling",
        https://arxiv.org/abs/1507.02646
        Zhang & Stephens (2009), "A new and efficient estimation method for the generalized Pareto
        distribution", Technometrics 51.

    Args:
        log_weights: Logarithms of importance weights, shape `(N,)`.
    """
    size = len(log_weights)
    count = math.ceil(min(0.2 * size, 3 * math.sqrt(size)))
    largest = log_weights.double().sort().values[-count - 1 :]
    if count < 5 or not bool(largest[-5:].isfinite().all()):
        return math.inf
    weights = torch.exp(largest - largest[-1])
    excess = weights[1:] - weights[0]
    excess = excess[excess > 1e-12]
    return _pareto_shape(excess) if len(excess) >= 5 else 0.0


def _pareto_shape(x: Tensor) -> float:
    """Fit the shape to sorted positive x `(n,)`: a posterior mean over candidates of b.

    The density is (1 - b x)^(-1 - 1/k) up to constants; the last line shrinks k towards 1/2 as
    ten further observations would.
    """
    n = len(x)
    candidates = 30 + int(math.sqrt(n))
    grid = torch.arange(1, candidates + 1, dtype=torch.float64)
    quartile = x[int(n / 4 + 0.5) - 1]
    b = (1 - torch.sqrt(candidates / (grid - 0.5))) / (3 * quartile) + 1 / x[-1]
    k = torch.log1p(-b[:, None] * x).mean(1)
    log_likelihood = n * (torch.log(-b / k) - k - 1)
    b_mean = (torch.softmax(log_likelihood, 0) * b).sum()
    shape = float(torch.log1p(-b_mean * x).mean())
    return (n * shape + 5) / (n + 10)


def nested_rhat(chains: Tensor) -> float:
    """Return the largest split R-hat over dimensions for ensembles of coupled walkers.

    Walkers of an ensemble depend on one another, so an ensemble counts as one chain: R-hat
    compares the means of ensembles (each split into its first and second half) with the spread
    inside of them. 1 is perfect; above 1.01 they have not forgotten where they started.

    References:
        Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari & Gelman (2024), "Nested R-hat",
        https://arxiv.org/abs/2110.13017

    Args:
        chains: Shape `(ensembles, steps, walkers, D)`.
    """
    half = chains.shape[1] // 2
    halves = torch.cat((chains[:, :half], chains[:, -half:])).double()
    pooled = halves.flatten(1, 2)
    between, within = pooled.mean(1).var(0), pooled.var(1).mean(0)
    return float(torch.sqrt(1 + between / within.clamp(min=1e-300)).max())


def split_rhat(chains: Tensor) -> Tensor:
    """Return split R-hat of quantities that independent chains drew, `(Q,)`; 1 is perfect, and
    infinite where no chain moves.

    References:
        Gelman et al. (2013), "Bayesian data analysis", section 11.4

    Args:
        chains: Shape `(chains, draws, Q)`, at least 4 draws; with fewer it is infinite.
    """
    half = chains.shape[1] // 2
    if half < 2:
        return torch.full(chains.shape[2:], torch.inf, dtype=torch.float64)
    halves = torch.cat((chains[:, :half], chains[:, -half:])).double()
    within = halves.var(1).mean(0)
    between = half * halves.mean(1).var(0)
    rhat = torch.sqrt(((half - 1) / half * within + between / half) / within)
    return rhat.nan_to_num(torch.inf, torch.inf)


def effective_draws(chains: Tensor) -> Tensor:
    """Return how many independent draws are worth as much as those of some chains, `(Q,)`.

    Autocorrelations are summed up to the first pair of lags whose sum is negative (Geyer's initial
    positive sequence), with the variance between chains taken in.

    References:
        Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), "Rank-normalization, folding, and
        localization: an improved R-hat", https://arxiv.org/abs/1903.08008, section 3.2

    Args:
        chains: Shape `(chains, draws, Q)`.
    """
    count, draws, num = chains.shape
    values = chains.double()
    centred = values - values.mean(1, keepdim=True)
    spectrum = torch.fft.rfft(centred, n=2 * draws, dim=1).abs().square()
    covariance = torch.fft.irfft(spectrum, n=2 * draws, dim=1)[:, :draws].mean(0) / draws
    within = covariance[0] * draws / max(draws - 1, 1)
    between = values.mean(1).var(0) if count > 1 else torch.zeros_like(within)
    total = ((draws - 1) / draws * within + between).clamp(min=1e-300)
    correlation = 1 - (within - covariance) / total
    correlation[0] = 1.0
    pairs = correlation[: draws // 2 * 2].unflatten(0, (-1, 2)).sum(1)
    positive = (pairs > 0).cumprod(0)
    time = -1 + 2 * (pairs * positive).sum(0)
    return (count * draws / time.clamp(min=1 / math.log10(count * draws + 10))).reshape(num)
