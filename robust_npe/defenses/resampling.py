"""Sampling-importance-resampling: the likelihood corrects what the network proposes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint
from typing_extensions import override

from robust_npe.antithetic import antithetic
from robust_npe.checks import ConfigError, require, require_positive_integer
from robust_npe.defenses.base import Defense
from robust_npe.defenses.post_hoc import PostHoc
from robust_npe.posterior import Posterior, log_prob, sample_and_log_prob
from robust_npe.random import draws_from, stream
from robust_npe.shapes import broadcast_shapes
from robust_npe.tasks.base import Task

__all__ = ["Resampled", "ResampledPosterior", "Resampling"]

BLOCK = 8192  # likelihoods that are computed together: bounds the memory
MIN_EFFECTIVE = 5.0  # samples, below which the evidence is off by a factor of 1.5 and more


class Resampled(Distribution):
    """p(theta|x) from weighted proposals.

    The density is p(theta) p(x|theta) / Z with the mean weight as Z; NaN, for there is no telling
    what Z is, at x where the effective number of samples is below 5. Samples are proposals, drawn
    with replacement by their weights. Gradients with respect to x are those of the likelihood,
    where it has them, at given proposals: unbiased for Z, for theta and x that are given. There are
    no reparameterised samples.

    Args:
        task: Prior and likelihood.
        x: Observations of shape `(B, Dx)`.
        proposals: Shape `(K, B, D)`.
        log_proposal: Log density that they were drawn from, shape `(K, B)`.

    Attributes:
        effective_size: Kish's effective number of samples, shape `(B,)`.
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012 (torch's interface)
    bounds_itself = True  # see `posterior.log_prob`

    def __init__(self, task: Task, x: Tensor, proposals: Tensor, log_proposal: Tensor) -> None:
        self.task = task
        self.x = x
        self.proposals = proposals
        self._log_joint = log_joint(task, proposals, x)
        log_weights = self._log_joint - log_proposal.clamp(min=-1e300)  # -inf would give NaN
        self._log_weights = log_weights.detach()
        self._log_evidence = log_weights.logsumexp(0) - math.log(len(proposals))
        weights = self._log_weights.softmax(0).nan_to_num(0.0)  # NaN where all of them are zero
        self.effective_size = (weights.sum(0) / weights.square().sum(0)).nan_to_num(0.0)
        super().__init__(x.shape[:1], proposals.shape[-1:], validate_args=False)

    @property
    def support(self) -> Constraint:
        """The support of the prior."""
        return self.task.support

    def log_prob(self, theta: Tensor) -> Tensor:
        """Return the log density of `theta (*, B, D)`, shape `(*, B)`."""
        shape = broadcast_shapes(theta.shape, self.batch_shape + self.event_shape)
        events = theta.expand(shape).reshape(-1, *shape[-2:])
        return self._normalised(log_joint(self.task, events, self.x)).reshape(shape[:-1])

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw samples of shape `(*sample_shape, B, D)`."""
        return self.sample_and_log_prob(sample_shape)[0]

    def sample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Draw samples with their log density, which is known; without gradient."""
        shape = Size(sample_shape) + self.batch_shape
        weights = self._log_weights.T.softmax(-1)
        weights = torch.where(weights.isnan(), 1.0, weights)  # then any proposal is as good
        count = Size(sample_shape).numel()
        with torch.no_grad():
            index = torch.multinomial(weights, count, replacement=True).T
            theta = self.proposals.gather(0, index.unsqueeze(-1).expand(-1, -1, *self.event_shape))
            log_density = self._normalised(self._log_joint.gather(0, index))
        return theta.reshape(shape + self.event_shape), log_density.reshape(shape)

    def _normalised(self, log_joint: Tensor) -> Tensor:
        value = log_joint - self._log_evidence
        enough = self.effective_size >= MIN_EFFECTIVE
        return torch.where(enough, value, torch.nan).to(self.proposals.dtype)


def log_prior(task: Task, theta: Tensor) -> Tensor:
    """Return log p(theta) for theta `(*, D)`, float64 `(*,)`; minus infinity outside."""
    here = theta.cpu()  # where tasks live
    density = task.prior.log_prob(_inside(task, here)).double()
    return torch.where(task.support.check(here), density, -torch.inf).to(theta.device)


def log_joint(task: Task, theta: Tensor, x: Tensor) -> Tensor:
    """Return log p(theta) + log p(x|theta) for theta `(S, B, D)` and x `(B, Dx)`, float64 `(S, B)`;
    minus infinity outside of the support, and where the likelihood cannot be computed."""
    here, observed = theta.cpu(), x.cpu()  # where tasks live
    parts = _inside(task, here).split(max(1, BLOCK // len(x)))
    likelihood = torch.cat([task.log_likelihood(part, observed).double() for part in parts])
    value = log_prior(task, here) + likelihood
    return torch.where(value < torch.inf, value, -torch.inf).to(theta.device)  # NaN is not below


def _inside(task: Task, theta: Tensor) -> Tensor:
    """Replace theta outside of the support: there, gradients would be NaN."""
    stand_in = task.sample_prior(1, stream(0, "stand-in")).to(theta)
    return torch.where(task.support.check(theta).unsqueeze(-1), theta, stand_in)


class ResampledPosterior(nn.Module):
    """x -> p(theta|x) by importance sampling from q(.|x) and from the prior.

    A share of the proposals comes from the prior, and all are weighted as draws from the mixture
    of both. So weights are bounded, and where q is confident and wrong, those of the few draws of
    the prior show it: the effective size is small. The noise is the same for every x.

    References:
        Hesterberg (1995), "Weighted average importance sampling and defensive mixture
        distributions", Technometrics 37.

    Args:
        posterior: q.
        task: Prior and likelihood.
        samples: Number of proposals K.
        prior_share: Share of them that comes from the prior, in [0, 1).
    """

    def __init__(self, posterior: Posterior, task: Task, samples: int, prior_share: float) -> None:
        super().__init__()
        self.posterior = posterior
        self.task = task
        self.samples = samples
        self.from_prior = round(samples * prior_share)

    def forward(self, x: Tensor) -> Resampled:
        """Return the distribution for `x (B, Dx)`."""
        x = torch.as_tensor(x)
        with torch.no_grad():
            proposals, log_proposal = self._proposals(x)
        return Resampled(self.task, x, proposals, log_proposal)

    def _proposals(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, task, count = self.posterior(x), self.task, self.samples - self.from_prior
        with draws_from(stream(0, "proposals")):
            theta, log_q = sample_and_log_prob(antithetic(q), (count,))
        if not self.from_prior:
            return theta, log_q.double()
        prior = task.sample_prior(self.from_prior, stream(0, "proposals of the prior")).to(theta)
        prior = prior.unsqueeze(1).expand(-1, len(x), -1)
        log_q = torch.cat((log_q, log_prob(q, prior))).double()
        theta = torch.cat((theta, prior))
        share = self.from_prior / self.samples
        log_p = log_prior(task, theta) + math.log(share)
        return theta, torch.logaddexp(log_q + math.log1p(-share), log_p)


class Resampling(PostHoc):
    """Corrects q(theta|x) by prior and likelihood: p(theta|x) from weighted samples of q.

    An attack on q makes the proposals worse, not the density: what remains is that samples become
    few, or that all proposals miss a part of the posterior. `robust_npe.metrics.EffectiveSize`
    shows the former, though not always the latter.

    White-box attacks see the gradient of the likelihood, as far as it is differentiable in x, not
    that of the error of Z, which is where the posterior is vulnerable: attacks that only evaluate
    see both. Samples have no gradient, so `kl_reverse` falls back on the score function.

    References:
        Rubin (1988), "Using the SIR algorithm to simulate posterior distributions", Bayesian
        Statistics 3.

    Args:
        base: What the network is trained with.
        samples: Number of proposals K, positive: as many likelihoods for each x.
        prior_share: Share of them that comes from the prior, in [0, 1).
    """

    name = "posthoc"

    def __init__(self, base: Defense, samples: int = 256, prior_share: float = 0.1) -> None:
        super().__init__(base)
        require_positive_integer("defense.samples", samples)
        require(0 <= prior_share < 1, "defense.prior_share", prior_share, "in [0, 1)")
        self.samples = samples
        self.prior_share = prior_share

    @override
    def check(self, task: Task) -> None:
        super().check(task)
        if not task.knows("log_likelihood"):
            raise ConfigError(
                f"defense={self.name} needs a likelihood, and task {task.name} has none: choose a "
                "task with `log_likelihood`, such as lotka_volterra or sir, or another defense."
            )

    @override
    def combine(self, posteriors: Sequence[Posterior], task: Task) -> ResampledPosterior:
        (posterior,) = posteriors
        return ResampledPosterior(posterior, task, self.samples, self.prior_share)
