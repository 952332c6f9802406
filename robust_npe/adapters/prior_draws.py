"""Likelihoods and ratios as posteriors: weights on draws from the prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from robust_npe.adapters.modules import like_weights
from robust_npe.checks import require
from robust_npe.random import draws_from, stream

__all__ = ["PriorDraws", "PriorDrawsPosterior"]

ROWS = 2**17  # pairs of theta and x that are evaluated at once: bounds the memory


class PriorDraws(Categorical):
    """A distribution over the numbers 0, ..., M - 1 of M draws of theta: batch shape `(B,)`.

    Args:
        logits: Log weights of the draws, `(B, M)`.
        values: The draws, `(M, D)`.
    """

    def __init__(self, logits: Tensor, values: Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)
        self.values = values

    @property
    def effective_sample_size(self) -> Tensor:
        """1 / sum_m w_m^2 for normalised weights w, shape `(B,)`: how many draws carry the
        posterior. Where it is small, take more draws, or believe nothing."""
        return 1 / self.probs.square().sum(-1)

    def theta(self, index: Tensor) -> Tensor:
        """Return the parameters `(*, D)` of samples `(*)`, which are numbers of draws."""
        return self.values[index]


class PriorDrawsPosterior(nn.Module):
    r"""q(theta_m|x) = r(x, theta_m) / sum_k r(x, theta_k) over fixed draws theta_m of the prior.

    r is a likelihood or a ratio of likelihood and evidence. Self-normalised importance sampling
    from the prior: for few parameters only; see `PriorDraws.effective_sample_size`. Divergences
    are closed sums and differentiable in x.

    Args:
        estimator: The network that stands behind r, set to evaluation mode.
        log_ratio: Maps the network, theta `(M, D)` and x `(B, Dx)` to log r, `(B, M)`.
        prior: Has a method `sample(shape)`.
        num_draws: Number of draws M, at least 2.
        seed: Seed of the draws.
    """

    def __init__(
        self,
        estimator: nn.Module,
        log_ratio: Callable[[Any, Tensor, Tensor], Tensor],
        prior: Any,
        num_draws: int = 2000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        require(hasattr(prior, "sample"), "prior", prior, "a distribution with a method `sample`")
        require(num_draws > 1, "num_draws", num_draws, "an integer of at least 2")
        self.estimator = estimator.eval()
        self.log_ratio = log_ratio
        with draws_from(stream(seed, "prior draws")):
            draws = prior.sample((num_draws,)).reshape(num_draws, -1)
        self.values: Tensor
        self.register_buffer("values", like_weights(draws, estimator))

    def forward(self, x: Tensor) -> PriorDraws:
        """Return q(.|x) for `x (B, Dx)`."""
        x = like_weights(x, self.estimator)
        parts = x.split(max(1, ROWS // len(self.values)))
        logits = torch.cat([self.log_ratio(self.estimator, self.values, part) for part in parts])
        return PriorDraws(logits, self.values)
