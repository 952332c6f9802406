"""Gaussian estimators, with diagonal and with full covariance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from robust_npe.checks import require_widths
from robust_npe.estimators.embeddings import mlp
from robust_npe.estimators.interfaces import Head
from robust_npe.estimators.univariate import soft_clip

__all__ = ["LOG_STD_LIMIT", "DiagonalGaussian", "FullGaussian"]

LOG_STD_LIMIT = 12.0  # what a network may reach, in units of the prior's standard deviation


class DiagonalGaussian(Head):
    """N(mu(x), diag(sigma(x)^2)).

    Args:
        dim_theta: Number of parameters D.
        dim_context: Number of features of the context.
        hidden: Widths of the hidden layers.
    """

    name = "gaussian"
    version: ClassVar[int] = 2

    def __init__(
        self, dim_theta: int, dim_context: int, hidden: Sequence[int] = (100, 100)
    ) -> None:
        super().__init__()
        require_widths("estimator.hidden", hidden)
        self.net = mlp(dim_context, hidden, 2 * dim_theta)

    def forward(self, context: Tensor) -> Independent:
        """Return the Gaussian for `context (*, C)`."""
        mean, log_std = self.net(context).chunk(2, dim=-1)
        std = soft_clip(log_std, LOG_STD_LIMIT).exp()
        return Independent(Normal(mean, std, validate_args=False), 1, validate_args=False)


class FullGaussian(Head):
    """N(mu(x), L(x) L(x)^T) with a lower triangular L of positive diagonal.

    Args:
        dim_theta: Number of parameters D.
        dim_context: Number of features of the context.
        hidden: Widths of the hidden layers.
    """

    name = "gaussian_full"
    version: ClassVar[int] = 2

    def __init__(
        self, dim_theta: int, dim_context: int, hidden: Sequence[int] = (200, 200)
    ) -> None:
        super().__init__()
        self.dim_theta = dim_theta
        self.rows, self.columns = torch.tril_indices(dim_theta, dim_theta, offset=-1).tolist()
        require_widths("estimator.hidden", hidden)
        self.net = mlp(dim_context, hidden, 2 * dim_theta + len(self.rows))

    def forward(self, context: Tensor) -> MultivariateNormal:
        """Return the Gaussian for `context (*, C)`."""
        d = self.dim_theta
        mean, log_diagonal, below = self.net(context).split([d, d, len(self.rows)], dim=-1)
        scale = torch.diag_embed(soft_clip(log_diagonal, LOG_STD_LIMIT).exp())
        scale[..., self.rows, self.columns] = below
        return MultivariateNormal(mean, scale_tril=scale, validate_args=False)
