"""One function for all posteriors that have a certificate."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from robust_npe.attacks.balls import Ball
from robust_npe.certificates.gaussian import affine_layers, diagonal_kl, full_kl, unbent
from robust_npe.certificates.region import Region
from robust_npe.certificates.smoothing import smoothed_kl
from robust_npe.estimators import DiagonalGaussian, Estimator
from robust_npe.posterior import Posterior

__all__ = ["Certificate", "certified_kl"]

ROWS = 128  # at once: a relaxation has a matrix for each of them and each layer


class Certificate(NamedTuple):
    """What no x~ in the ball around x exceeds.

    Attributes:
        forward: Bound of KL(q(.|x) || q(.|x~)), shape `(B,)`, float64, in nats.
        reverse: Bound of KL(q(.|x~) || q(.|x)), likewise.
    """

    forward: Tensor
    reverse: Tensor


@torch.no_grad()
def certified_kl(posterior: Posterior, x: Tensor, ball: Ball) -> Certificate | None:
    """Bound how far the posterior moves in a ball of perturbations, by its kind.

    - one with a method `certify(x, ball)`: what that returns;
    - a smoothed posterior of this package, whose attribute `sigma` is the standard deviation of the
      noise: see `smoothed_kl`;
    - estimators with a Gaussian head, and an MLP or no embedding: see
      `robust_npe.certificates.gaussian`.

    Args:
        posterior: Any posterior.
        x: Clean observations, shape `(B, Dx)`.
        ball: The perturbations, with radii and scale in units of x.

    Returns:
        Bounds, or None where there is no certificate for this posterior or norm.
    """
    if hasattr(posterior, "certify"):
        return cast(Any, posterior).certify(x, ball)
    region = Region.of(ball, x)
    if region is None:
        return None
    # elsewhere, sigma may mean anything
    if hasattr(posterior, "sigma") and type(posterior).__module__.startswith("robust_npe."):
        bound = smoothed_kl(region, cast(Any, posterior).sigma)
        return Certificate(bound, bound)
    if type(posterior) is not Estimator or (layers := affine_layers(posterior)) is None:
        return None
    bounds = diagonal_kl if type(posterior.head) is DiagonalGaussian else full_kl
    parts = [
        bounds(layers, rows, part)
        for rows, part in zip(unbent(posterior, x).split(ROWS), region.split(ROWS), strict=True)
    ]
    return Certificate(*(torch.cat(part) for part in zip(*parts, strict=True)))
