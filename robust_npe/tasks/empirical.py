"""The empirical distribution of parameters that were drawn by somebody else."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint, real_vector

__all__ = ["Empirical"]


class Empirical(Distribution):
    """Draws rows of `theta (N, D)` with replacement; it has no density.

    Args:
        theta: The parameters.
        support: Where parameters may lie: all of them lie there, and the posterior will. None: not
            known; anywhere, then.
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(self, theta: Tensor, support: Constraint | None = None) -> None:
        super().__init__(torch.Size(), theta.shape[1:], validate_args=False)
        self.theta = theta
        self.knows_support = support is not None
        self._support = real_vector if support is None else support

    @property
    def support(self) -> Constraint:
        """Where parameters may lie."""
        return self._support

    @property
    def mean(self) -> Tensor:
        """Mean of the rows, `(D,)`."""
        return self.theta.mean(0)

    @property
    def variance(self) -> Tensor:
        """Variance of the rows, `(D,)`."""
        return self.theta.var(0, unbiased=False)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Draw rows, shape `(*sample_shape, D)`."""
        return self.theta[torch.randint(len(self.theta), torch.Size(sample_shape))]

    def log_prob(self, value: Tensor) -> Tensor:
        """Raise an error: where there is no row, there is no density either."""
        raise NotImplementedError("an empirical prior has no density")
