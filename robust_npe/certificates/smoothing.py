"""Certificate of a smoothed posterior: adding noise to x hides small perturbations."""

from __future__ import annotations

import torch
from torch import Tensor

from robust_npe.certificates.region import Region

__all__ = ["smoothed_kl"]


def smoothed_kl(region: Region, sigma: float | Tensor) -> Tensor:
    r"""Bound the KL divergence, in both directions, of the ideal smoothed posterior.

    q_s(.|x) = E_u q(.|x + u), u ~ N(0, sigma^2), is a function of x with noise. By the data
    processing inequality no function brings the distributions of two inputs apart:

        KL(q_s(.|x) || q_s(.|x~)) <= KL(N(x, sigma^2) || N(x~, sigma^2)) = |(x~ - x) / sigma|^2 / 2

    for any q. An average over finitely many u is not covered.

    Args:
        region: The perturbations.
        sigma: Standard deviation of the noise in units of x, positive: a number, or one for each
            feature, `(Dx,)`.

    Returns:
        Bounds of shape `(B,)`, in nats: the largest over the region, or a little more where the
        domain cuts an L1 or L2 ball.
    """
    sigma = torch.as_tensor(sigma, dtype=region.size.dtype, device=region.size.device)
    box = (torch.maximum(-region.low, region.high) / sigma).square().sum(-1)
    if region.norm == "linf":
        return box / 2
    axis = (region.size / sigma).square().amax(-1)  # the farthest point lies on an axis
    return torch.minimum(axis, box) / 2
