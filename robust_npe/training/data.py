"""What training pairs must be."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from robust_npe.checks import ConfigError, require
from robust_npe.estimators import Estimator

__all__ = ["Pairs", "usable_pairs"]

log = logging.getLogger(__name__)

Pairs = tuple[Tensor, Tensor]

ROWS = 65_536  # that are checked at a time: a mask of all data may not fit into memory


def usable_pairs(estimator: Estimator, pairs: Pairs, name: str) -> Pairs:
    """Return pairs as the estimator takes them: of its type, without graph, all finite.

    Args:
        estimator: What will be trained.
        pairs: Parameters `(N, D)` and observations `(N, Dx)`, tensors or arrays; rows that are not
            finite are left out, with a warning.
        name: What they are for, e.g. `training`.

    Raises:
        ConfigError: Wrong shapes, nothing finite, or theta outside of the prior's support.
    """
    theta, x = (torch.as_tensor(part, dtype=estimator.bijection.dtype).detach() for part in pairs)
    for part, array, dim in (("theta", theta, estimator.dim_theta), ("x", x, estimator.dim_x)):
        fits = array.shape == (len(theta), dim)
        require(fits, f"shape of {name} {part}", tuple(array.shape), f"({len(theta)}, {dim})")
    blocks = zip(theta.split(ROWS), x.split(ROWS), strict=True)
    finite = torch.cat([t.isfinite().all(1) & y.isfinite().all(1) for t, y in blocks])
    if not finite.all():
        log.warning(
            "%d of %d %s pairs are not finite: left out", int((~finite).sum()), len(x), name
        )
        theta, x = theta[finite], x[finite]
    require(len(x) > 0, f"number of finite {name} pairs", len(x), "positive")
    _check_support(estimator, theta, name)
    return theta, x


def _check_support(estimator: Estimator, theta: Tensor, name: str) -> None:
    outside = estimator.bijection.is_outside(theta)
    if not outside.any():
        return
    counts = zip(estimator.theta_names, outside.sum(0).tolist(), strict=True)
    where = ", ".join(f"{parameter} in {count}" for parameter, count in counts if count)
    raise ConfigError(
        f"{int(outside.any(1).sum())} of {len(theta)} {name} pairs have parameters outside of the "
        f"prior's support ({where}): leave them out, or use the prior they were drawn from."
    )
