"""The ground floor: an amortized posterior is anything that maps x to a distribution over theta."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from robust_npe.checks import require
from robust_npe.random import draws_from

__all__ = ["Posterior", "as_events", "as_vectors", "differentiated_scores", "sample_and_log_prob"]

Posterior = Callable[[Tensor], Distribution]
"""Maps observations x `(B, Dx)` to a distribution over theta with batch shape `(B,)`: an estimator,
an exact posterior, a flow of another library, a classifier, a plain function."""


@torch.no_grad()
def sample_and_log_prob(q: Distribution, sample_shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Draw samples with their log density, without graph; in one pass where q offers that."""
    if hasattr(q, "sample_and_log_prob"):
        return q.sample_and_log_prob(sample_shape)
    samples = q.sample(sample_shape)
    return samples, q.log_prob(samples)


def as_events(q: Distribution, theta: Tensor, sample_shape: tuple[int, ...] = ()) -> Tensor:
    """Return theta, vectors `(*sample_shape, B, D)`, as events of q, whose event shape may be `()`.

    Raises:
        ConfigError: They do not fit; or q has no batch shape `(B,)`, one for each observation.
    """
    batch = (*sample_shape, *q.batch_shape)
    shape = torch.Size((*batch, *q.event_shape))
    fits = len(q.batch_shape) == 1 and theta.shape[: len(batch)] == batch
    if not fits or theta.numel() != shape.numel():
        own = f"batch shape {tuple(q.batch_shape)} and event shape {tuple(q.event_shape)}"
        wanted = "(B, D) for a posterior with batch shape (B,), one event for each observation"
        require(False, "theta.shape", tuple(theta.shape), f"{wanted}; this one has {own}")
    return theta.reshape(shape)


def as_vectors(q: Distribution, theta: Tensor) -> Tensor:
    """Return samples `(*, B, *event_shape)` of q as vectors `(*, B, D)` of floating-point numbers;
    D is 1 for an event shape `()`, e.g. for the labels of a classifier."""
    theta = theta if theta.is_floating_point() else theta.float()
    event_dims = len(q.event_shape)
    return theta.flatten(-event_dims) if event_dims else theta.unsqueeze(-1)


def differentiated_scores(
    posterior: Posterior, x: Tensor, num_samples: int, generator: Generator, attached: bool
) -> Tensor:
    """Return grad_x log q(theta_s|x) for theta_s ~ q(.|x), shape `(S, B, Dx)`, by automatic
    differentiation; arguments as for `robust_npe.fisher.scores`.

    Raises:
        ConfigError: `attached` is wanted, and q has no reparameterised samples.
    """
    x = x.detach()
    with draws_from(generator), torch.set_grad_enabled(attached):
        q = posterior(x)
        if attached:
            without = f"False for {type(q).__name__}, which has no reparameterised samples"
            require(q.has_rsample, "attached", attached, without)
        theta = (q.rsample if q.has_rsample else q.sample)((num_samples,))
    # one copy of x per sample, so that the gradient of the sum is the score of each sample
    copies = x.expand(num_samples, *x.shape).reshape(-1, x.shape[-1]).clone().requires_grad_(True)
    with torch.enable_grad():
        log_prob = posterior(copies).log_prob(theta.reshape(len(copies), *q.event_shape))
        (score,) = torch.autograd.grad(log_prob.sum(), copies, create_graph=attached)
    return score.reshape(num_samples, *x.shape)
