"""The ground floor: an amortized posterior is anything that maps x to a distribution over theta."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution, Independent, TransformedDistribution

from robust_npe.checks import ConfigError, require
from robust_npe.random import draws_from, stream

__all__ = [
    "Posterior",
    "as_events",
    "as_vectors",
    "differentiated_scores",
    "gradient",
    "is_outside",
    "log_prob",
    "posterior_at",
    "sample_and_log_prob",
]

Posterior = Callable[[Tensor], Distribution]
"""Maps observations x `(B, Dx)` to a distribution over theta with batch shape `(B,)`: an estimator,
an exact posterior, a flow of another library, a classifier, a plain function."""


def posterior_at(posterior: Posterior, x: Tensor) -> Distribution:
    """Return q(.|x) for `x (B, Dx)`.

    Raises:
        ConfigError: It is not one distribution for each observation.
    """
    q = posterior(x)
    if isinstance(q, Distribution) and x.ndim == 2 and q.batch_shape == x.shape[:1]:
        return q
    given = type(q).__name__
    if isinstance(q, Distribution):
        given += f" with batch shape {tuple(q.batch_shape)}"
    raise ConfigError(
        f"posterior(x) is a {given} for x of shape {tuple(x.shape)}: it must be a torch "
        "distribution with batch shape (B,) for x (B, Dx), see torch.distributions.Independent."
    )


def log_prob(q: Distribution, theta: Tensor) -> Tensor:
    """Return log q(theta) of events `(*, B, *event_shape)`, shape `(*, B)`: minus infinity outside
    of the support, where torch's distributions raise a `ValueError` or return anything. One with an
    attribute `bounds_itself` knows how to do that."""
    if getattr(q, "bounds_itself", False):  # saves what follows, at every step of an attack
        return q.log_prob(theta)
    try:
        with torch.no_grad():
            outside = is_outside(q, theta)
    except (NotImplementedError, AttributeError, ValueError, RuntimeError):
        return q.log_prob(theta)  # it does not know its support, or has more to say about theta
    if not outside.any():
        return q.log_prob(theta)
    # without valid stand-ins, gradients would be nan wherever one theta is outside
    with draws_from(stream(0, "stand-in")):
        stand_in = q.sample(theta.shape[: outside.ndim - 1])
    events = outside.reshape(*outside.shape, *(1 for _ in q.event_shape))
    return torch.where(outside, -torch.inf, q.log_prob(torch.where(events, stand_in, theta)))


def is_outside(q: Distribution, theta: Tensor) -> Tensor:
    """Tell which events `(*, B, *event_shape)` are outside of the support, bool `(*, B)`; NaN is
    nowhere, neither inside nor outside."""
    leading = theta.shape[: theta.ndim - len(q.event_shape)]
    missing = theta.isnan().reshape(*leading, -1).any(-1)
    masks = []
    if isinstance(q, Independent):
        masks.append(is_outside(q.base_dist, theta))
    elif isinstance(q, TransformedDistribution):  # its `support` is that of the last transform
        for transform in reversed(q.transforms):
            masks.append(~transform.codomain.check(theta))
            theta = transform.inv(theta)
        masks.append(is_outside(q.base_dist, theta))
    else:
        masks.append(~cast(Any, q).support.check(theta))
    return torch.stack([mask.reshape(*leading, -1).any(-1) for mask in masks]).any(0) & ~missing


def gradient(value: Tensor, x: Tensor, create_graph: bool = False) -> Tensor:
    """Return the gradient of the sum of a value with respect to x, of the shape of x; zero where
    the value does not depend on x, or not differentiably."""
    if not value.requires_grad:
        return torch.zeros_like(x)
    total = value.sum()
    return torch.autograd.grad(total, x, create_graph=create_graph, materialize_grads=True)[0]


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
    D is 1 for an event shape `()`, e.g. for the labels of a classifier. Where events are numbers of
    parameters, as of `robust_npe.adapters.PriorDraws`, its method `theta` says which ones."""
    if callable(to_theta := getattr(q, "theta", None)):
        return to_theta(theta)
    theta = theta if theta.is_floating_point() else theta.float()
    event_dims = len(q.event_shape)
    return theta.flatten(-event_dims) if event_dims else theta.unsqueeze(-1)


def differentiated_scores(
    posterior: Posterior, x: Tensor, num_samples: int, generator: Generator, attached: bool
) -> Tensor:
    """Return grad_x log q(theta_s|x) for theta_s ~ q(.|x), shape `(S, B, Dx)`, by automatic
    differentiation; arguments, and what their gradient is worth, as for `robust_npe.fisher.scores`.

    Raises:
        ConfigError: `attached` is wanted, and q has no reparameterised samples; or q is not one
            distribution for each observation.
    """
    x = x.detach()
    with draws_from(generator), torch.set_grad_enabled(attached):
        q = posterior_at(posterior, x)
        if attached:
            without = f"False for {type(q).__name__}, which has no reparameterised samples"
            require(q.has_rsample, "attached", attached, without)
        theta = (q.rsample if q.has_rsample else q.sample)((num_samples,))
    # one copy of x per sample, so that the gradient of the sum is the score of each sample
    copies = x.expand(num_samples, *x.shape).reshape(-1, x.shape[-1]).clone().requires_grad_(True)
    with torch.enable_grad():
        value = posterior(copies).log_prob(theta.reshape(len(copies), *q.event_shape))
        score = gradient(value, copies, create_graph=attached)
    return score.reshape(num_samples, *x.shape)
