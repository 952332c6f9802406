"""Normalizing flows: MAF and NSF."""

from __future__ import annotations

from collections.abc import Sequence

from robust_npe.estimators.autoregressive import AutoregressiveFlow
from robust_npe.estimators.kernels.spline import CompiledSpline
from robust_npe.estimators.univariate import Affine, AffineSpline

__all__ = ["MAF", "NSF"]


class MAF(AutoregressiveFlow):
    """Masked autoregressive flow with affine transforms.

    References:
        Papamakarios, Pavlakou & Murray (2017), "Masked autoregressive flow for density
        estimation", https://arxiv.org/abs/1705.07057

    Args:
        dim_theta: Number of parameters D.
        dim_context: Number of features of the context.
        transforms: Number of autoregressive transforms; the order of the coordinates is
            reversed from one to the next.
        hidden: Widths of the hidden layers of each transform.
        passes: Sequential steps of the inverse; None is D (fully autoregressive), 2 is a
            coupling flow, whose samples are cheap.
    """

    name = "maf"

    def __init__(
        self,
        dim_theta: int,
        dim_context: int,
        transforms: int = 3,
        hidden: Sequence[int] = (100, 100),
        passes: int | None = None,
    ) -> None:
        super().__init__(dim_theta, dim_context, Affine(), transforms, hidden, passes)


class NSF(AutoregressiveFlow):
    """Neural spline flow: autoregressive rational-quadratic splines, each after an affine function.

    References:
        Durkan et al. (2019), "Neural spline flows", https://arxiv.org/abs/1906.04032

    Args:
        dim_theta: Number of parameters D.
        dim_context: Number of features of the context.
        transforms: Number of autoregressive transforms.
        bins: Number of spline bins.
        bound: The splines act on [-bound, bound] of what the affine functions give; outside they
            are the identity.
        hidden: Widths of the hidden layers of each transform.
        passes: As in `MAF`.
    """

    name = "nsf"

    def __init__(
        self,
        dim_theta: int,
        dim_context: int,
        transforms: int = 3,
        bins: int = 8,
        bound: float = 5.0,
        hidden: Sequence[int] = (100, 100),
        passes: int | None = None,
    ) -> None:
        spline = AffineSpline(CompiledSpline(bins, bound))
        super().__init__(dim_theta, dim_context, spline, transforms, hidden, passes)
