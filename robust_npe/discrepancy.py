"""Two sets of samples: in common units, and how far apart they are (maximum mean discrepancy)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["median_square", "mmd", "squared_distances", "z_scored"]

FAR = 100.0  # standard deviations; none of N samples is further than sqrt(N) from their own mean


def mmd(p: Tensor, q: Tensor, width: Tensor | None = None) -> Tensor:
    """Return an unbiased estimate of the squared maximum mean discrepancy.

    Gaussian kernel exp(-|a - b|^2 / (2 h^2)), where h is the median distance between different
    samples of both sets together; parameters are z-scored by the first set (see `z_scored`), so
    that units do not matter. Equal distributions give 0 on average, for sets of any size; single
    estimates may be negative. Infinite samples count as far away; NaN gives NaN.

    References:
        Gretton, Borgwardt, Rasch, Schölkopf & Smola (2012), "A kernel two-sample test",
        https://jmlr.org/papers/v13/gretton12a.html

    Args:
        p: Samples of shape `(*, N, D)`, N at least 2.
        q: Samples of shape `(*, M, D)`, M at least 2.
        width: h^2 in z-scored units, shape `(*,)`, instead of that of the samples.

    Returns:
        Squared discrepancies of shape `(*,)`, float64.
    """
    n, m = p.shape[-2], q.shape[-2]
    both = torch.cat(z_scored(p.double(), q.double()), dim=-2)
    squares = squared_distances(both, both)
    width = median_square(squares) if width is None else width
    kernel = torch.exp(-squares / (2 * width[..., None, None]))
    within_p = (kernel[..., :n, :n].sum((-1, -2)) - n) / (n * (n - 1))
    within_q = (kernel[..., n:, n:].sum((-1, -2)) - m) / (m * (m - 1))
    return within_p + within_q - 2 * kernel[..., :n, n:].mean((-1, -2))


def squared_distances(p: Tensor, q: Tensor) -> Tensor:
    """Return |p_i - q_j|^2 for samples `(*, N, D)` and `(*, M, D)`, shape `(*, N, M)`."""
    return torch.cdist(p, q, compute_mode="donot_use_mm_for_euclid_dist").square()


def median_square(squares: Tensor) -> Tensor:
    """Return the median over pairs of different samples of squared distances `(*, N, N)`."""
    count = squares.shape[-1]
    rows, columns = torch.triu_indices(count, count, offset=1)
    return squares[..., rows, columns].median(-1).values.clamp(min=torch.finfo(squares.dtype).tiny)


def z_scored(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sets of samples z-scored by the first, dimension by dimension.

    A dimension in which the first set is constant (up to rounding) is measured by the spread of
    both together, and one that is constant in both tells nothing. What is further than 100
    standard deviations away, infinite samples included, is put there: that is far enough to be
    told apart, and a network can learn from it. NaN remains.

    Args:
        p: Samples of shape `(*, N, D)`; mean and spread are those of the finite ones.
        q: Samples of shape `(*, M, D)`.
    """
    mean, std = _moments(p)
    constant = std <= 4 * torch.finfo(p.dtype).eps * mean.abs()
    std = torch.where(constant, _moments(torch.cat((p, q), dim=-2))[1], std)
    std = torch.where(std > 0, std, 1.0)
    return ((p - mean) / std).clamp(-FAR, FAR), ((q - mean) / std).clamp(-FAR, FAR)


def _moments(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation `(*, 1, D)` of the finite entries; 0 without any."""
    finite = samples.isfinite()
    if finite.all():
        return samples.mean(-2, keepdim=True), samples.std(-2, keepdim=True)
    count = finite.sum(-2, keepdim=True)
    mean = torch.where(finite, samples, 0.0).sum(-2, keepdim=True) / count.clamp(min=1)
    squares = torch.where(finite, samples - mean, 0.0).square().sum(-2, keepdim=True)
    return mean, (squares / (count - 1).clamp(min=1)).sqrt()
