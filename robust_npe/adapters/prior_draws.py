"""Likelihoods and ratios as posteriors: weights on draws from the prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Categorical, Distribution, register_kl
from torch.distributions.constraints import Constraint

from robust_npe.adapters.modules import like_weights
from robust_npe.checks import require
from robust_npe.posterior import gradient, log_prob
from robust_npe.random import draws_from, stream

__all__ = ["PriorDraws", "PriorDrawsDensity", "PriorDrawsPosterior"]

ROWS = 2**17  # pairs of theta and x that are evaluated at once: bounds the memory


class PriorDraws(Categorical):
    """A distribution over the numbers 0, ..., M - 1 of M draws of theta: batch shape `(B,)`.

    Args:
        logits: Log weights of the draws, `(B, M)`.
        values: The draws, `(M, D)`.
    """

    bounds_itself = True  # see `posterior.log_prob`

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

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the parameters, `(B, D)`, differentiable."""
        mean = self.probs @ self.values
        square = (self.values - mean.unsqueeze(-2)).square()
        return mean, torch.einsum("bm,bmd->bd", self.probs, square).sqrt()


@register_kl(PriorDraws, PriorDraws)
def _kl(p: PriorDraws, q: PriorDraws) -> Tensor:
    """KL of weights on the same draws. That of `Categorical` is infinite where a probability is
    below what its precision can hold, as those of most draws are."""
    terms = p.probs * (p.logits - q.logits)
    return torch.where(p.probs > 0, terms, 0.0).sum(-1)


class PriorDrawsPosterior(nn.Module):
    r"""q(theta_m|x) = r(x, theta_m) / sum_k r(x, theta_k) over fixed draws theta_m of the prior.

    r is a likelihood or a ratio of likelihood and evidence. Self-normalised importance sampling
    from the prior: for few parameters only; see `PriorDraws.effective_sample_size`. Divergences
    are closed sums and differentiable in x.

    Args:
        estimator: The network that stands behind r, set to evaluation mode.
        log_ratio: Maps the network, theta `(N, D)` and x `(N, Dx)` to log r of each pair, `(N,)`.
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
        self.prior = prior
        with draws_from(stream(seed, "prior draws")):
            draws = prior.sample((num_draws,)).reshape(num_draws, -1)
        self.values: Tensor
        self.register_buffer("values", like_weights(draws, estimator))

    def forward(self, x: Tensor) -> PriorDraws:
        """Return q(.|x) for `x (B, Dx)`."""
        return PriorDraws(self.log_ratios(x), self.values)

    def log_ratios(self, x: Tensor) -> Tensor:
        """Return log r(x, theta_m) for `x (B, Dx)`, shape `(B, M)`."""
        num, parts = len(self.values), []
        for part in like_weights(x, self.estimator).split(max(1, ROWS // len(self.values))):
            pairs = self.values.repeat(len(part), 1), part.repeat_interleave(num, 0)
            parts.append(self.log_ratio(self.estimator, *pairs).reshape(len(part), num))
        return torch.cat(parts)

    def scores(self, x: Tensor, num_samples: int, generator: Generator, attached: bool) -> Tensor:
        """Return scores grad_x log q(theta_s|x), see `robust_npe.fisher.scores`: grad_x log r of
        all draws gives those of every sample, less their mean under q(.|x)."""
        require(not attached, "attached", attached, "False: there are no reparameterised samples")
        drawn = [self._scores(row, num_samples, generator) for row in x.split(1)]
        return torch.stack(drawn, 1)

    def _scores(self, x: Tensor, num_samples: int, generator: Generator) -> Tensor:
        """As `scores`, for one `x (1, Dx)`: `(S, Dx)`."""
        copies = x.detach().repeat(len(self.values), 1).requires_grad_(True)
        with torch.enable_grad():
            log_r = self.log_ratio(
                self.estimator, self.values, like_weights(copies, self.estimator)
            )
            slope = gradient(log_r, copies)
        probs = log_r.detach().softmax(0)
        with draws_from(generator):
            index = probs.multinomial(num_samples, replacement=True)
        return slope[index] - probs.to(slope) @ slope

    def over_theta(self, x: Tensor) -> PriorDrawsDensity:
        """Return q(.|x) over theta itself, for `x (B, Dx)`.

        Raises:
            ConfigError: The prior has no density.
        """
        expected = "a distribution with `log_prob`, to tell the density of the posterior"
        require(hasattr(self.prior, "log_prob"), "prior", self.prior, expected)
        return PriorDrawsDensity(self, x)


class PriorDrawsDensity(Distribution):
    r"""q(theta|x) = r(x, theta) p(theta) / Z(x), with Z(x) = 1/M sum_m r(x, theta_m).

    Densities at any theta, and samples among the draws: what `PriorDraws` stands for. Without
    gradients.

    Args:
        posterior: Draws theta_m of the prior p, and r.
        x: Observations `(B, Dx)`.
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012 (torch's interface)
    bounds_itself = True  # see `posterior.log_prob`
    has_rsample = False

    @torch.no_grad()
    def __init__(self, posterior: PriorDrawsPosterior, x: Tensor) -> None:
        self.posterior = posterior
        self.x = like_weights(x, posterior.estimator).detach()
        log_r = posterior.log_ratios(self.x)
        self.draws = PriorDraws(log_r, posterior.values)
        self.log_z = log_r.logsumexp(-1) - math.log(len(posterior.values))
        super().__init__(x.shape[:1], posterior.values.shape[1:], validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw samples of shape `(*sample_shape, B, D)`."""
        return self.draws.theta(self.draws.sample(sample_shape))

    @torch.no_grad()
    def log_prob(self, theta: Tensor) -> Tensor:
        """Return log q(theta) for `theta (*, B, D)`, shape `(*, B)`."""
        model, rows = self.posterior, theta.reshape(-1, *theta.shape[-2:]).to(self.x)
        flat, x = rows.flatten(0, 1), self.x.repeat(len(rows), 1)
        log_joint = model.log_ratio(model.estimator, flat, x) + log_prob(model.prior, flat)
        return (log_joint.reshape(rows.shape[:2]) - self.log_z).reshape(theta.shape[:-1])
