r"""Amortized posteriors: modules whose forward pass returns a distribution over theta."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Generator, Size, Tensor, nn
from torch.distributions import Distribution, biject_to, constraints, kl_divergence, register_kl
from torch.distributions.constraints import Constraint

from robust_npe.antithetic import antithetic
from robust_npe.checks import require
from robust_npe.estimators.embeddings import Identity
from robust_npe.estimators.interfaces import Embedding, Head
from robust_npe.posterior import differentiated_scores

__all__ = ["Bijection", "Estimator", "Pushforward", "ScoreMethod", "Standardize"]

ScoreMethod = Literal["compiled", "embedded", "differentiated"]

ROWS = 65_536  # that are converted to float64 at a time
MIN_STD = 0.05  # features of x that hardly vary are not blown up (published setting)


class Pushforward(Distribution):
    """The distribution of theta = f(z) for z from a base distribution on R^D.

    Unlike `torch.distributions.TransformedDistribution`, the log density outside of the support is
    minus infinity, and samples come with their log density where the base offers that.

    Args:
        base: Distribution of z, batch shape `(B,)`, event shape `(D,)`.
        bijection: The map f from R^D onto the support.
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012 (torch's interface)

    def __init__(self, base: Distribution, bijection: Bijection) -> None:
        self.base = base
        self.has_rsample = base.has_rsample
        self.bijection = bijection
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> Constraint:
        """The set of theta with positive density."""
        return self.bijection.support

    def antithetic(self) -> Pushforward:
        """See `antithetic`."""
        return Pushforward(antithetic(self.base), self.bijection)

    def log_prob(self, theta: Tensor) -> Tensor:
        """Return log q(theta) for `theta (*, B, D)`, shape `(*, B)`."""
        if self.bijection.unbounded:  # saves what follows, at every training step
            z, log_det = self.bijection.inverse_and_log_det(theta)
            return self.base.log_prob(z) + log_det
        inside = self.support.check(theta)
        # without a valid stand-in, gradients would be nan wherever one theta is outside
        stand_in = self.bijection(theta.new_zeros(theta.shape[-1:]))
        z, log_det = self.bijection.inverse_and_log_det(
            torch.where(inside.unsqueeze(-1), theta, stand_in)
        )
        return torch.where(inside, self.base.log_prob(z) + log_det, -torch.inf)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw reparameterised samples of shape `(*sample_shape, B, D)`."""
        return self.bijection(self.base.rsample(Size(sample_shape)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw samples of shape `(*sample_shape, B, D)` without gradient."""
        with torch.no_grad():
            return self.bijection(self.base.sample(Size(sample_shape)))

    def sample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Draw samples with their log density, without gradient; cheaper than one by one."""
        with torch.no_grad():
            if not hasattr(self.base, "rsample_and_log_prob"):
                theta = self.sample(sample_shape)
                return theta, self.log_prob(theta)
            z, log_prob = self.base.rsample_and_log_prob(Size(sample_shape))
            theta = self.bijection(z)
            return theta, log_prob + self.bijection.inverse_and_log_det(theta)[1]


@register_kl(Pushforward, Pushforward)
def _kl_pushforward(p: Pushforward, q: Pushforward) -> Tensor:
    """KL does not change under a shared bijection."""
    if p.bijection is not q.bijection:
        raise NotImplementedError("no closed form for distributions from different estimators")
    return kl_divergence(p.base, q.base)


class Standardize(nn.Module):
    """(x - mean) / std with fixed statistics.

    Args:
        dim: Number of features.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def fit(self, x: Tensor, min_std: float) -> None:
        """Take mean and standard deviation from data `(N, dim)`, the latter at least `min_std`."""
        parts = x.split(ROWS)  # a copy of all data in float64 may not fit into memory
        mean = sum(part.double().sum(0) for part in parts) / len(x)
        variance = sum((part.double() - mean).square().sum(0) for part in parts) / len(x)
        self.mean.copy_(mean)
        self.std.copy_(variance.sqrt().clamp(min=min_std))

    def forward(self, x: Tensor) -> Tensor:
        """Return the standardised data, same shape."""
        return (x - self.mean) / self.std


class Bijection(nn.Module):
    """theta = f(mean + std z), from R^D onto the support of the prior.

    Args:
        dim_theta: Number of parameters D.
        support: Support of the prior over theta.
    """

    def __init__(self, dim_theta: int, support: Constraint) -> None:
        super().__init__()
        self.support = support
        self.unbounded = _is_unbounded(support)
        self.standardize = Standardize(dim_theta)
        self._to_support = biject_to(support)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Bijection:
        """Bounds of the support follow the module to another device or type."""
        super()._apply(fn, recurse)
        self.support = _converted(self.support, fn)
        self._to_support = biject_to(self.support)
        return self

    def fit(self, theta: Tensor) -> None:
        """Fit mean and std to parameters `(N, D)`, so that z has mean 0 and variance 1."""
        self.standardize.fit(self._to_support.inv(theta), min_std=1e-6)

    def forward(self, z: Tensor) -> Tensor:
        """Map `z (*, D)` to theta."""
        return self._to_support(self.standardize.mean + self.standardize.std * z)

    def inverse_and_log_det(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Map `theta (*, D)` to z, with log |det dz/dtheta| of shape `(*,)`.

        Values outside of the support give an arbitrary result.
        """
        if self.unbounded:
            log_det = -self.standardize.std.log().sum()
            return self.standardize(theta), log_det.expand(theta.shape[:-1])
        u = self._to_support.inv(theta)
        log_det = -self._to_support.log_abs_det_jacobian(u, theta)
        if log_det.ndim == theta.ndim:  # identity transforms do not sum over the event
            log_det = log_det.sum(-1)
        return self.standardize(u), log_det - self.standardize.std.log().sum()


def _converted(support: Constraint, fn: Callable[[Tensor], Tensor]) -> Constraint:
    """Return a constraint whose bounds went through a conversion."""
    converted = copy.copy(support)
    for name, value in vars(support).items():
        if isinstance(value, Tensor):
            setattr(converted, name, fn(value))
        elif isinstance(value, Constraint):
            setattr(converted, name, _converted(value, fn))
    return converted


def _is_unbounded(support: Constraint) -> bool:
    """Tell whether the support is all of R^D."""
    while isinstance(support, type(constraints.real_vector)):  # an independent one
        support = support.base_constraint
    return type(support) is type(constraints.real)


class Estimator(nn.Module):
    """An amortized posterior q(theta|x).

    x is z-scored, embedded, and handed to a head that returns a distribution on R^D; that is
    moved onto the support of the prior by a fixed bijection. Everything that depends on data
    units is inside, so x and theta are always in the task's own units.

    Args:
        head: Builds the head from D and the number of features of the context: the class of a
            head, or one with its settings bound by `functools.partial`.
        embedding: Builds the embedding net from the number of features of x, likewise.
        dim_theta: Number of parameters D.
        dim_x: Number of features Dx.
        support: Support of the prior over theta.

    Attributes:
        name: Name of the density estimator, for tables.
        version: Raise it when the same head and embedding come to mean another posterior.
    """

    version: ClassVar[int] = 1

    def __init__(
        self,
        head: Callable[[int, int], Head],
        embedding: Callable[[int], Embedding],
        dim_theta: int,
        dim_x: int,
        support: Constraint,
    ) -> None:
        super().__init__()
        self.dim_theta = dim_theta
        self.dim_x = dim_x
        self.standardize = Standardize(dim_x)
        self.bijection = Bijection(dim_theta, support)
        self.embedding = embedding(dim_x)
        self.head = head(dim_theta, self.embedding.dim_out)
        self.name: str = getattr(self.head, "name", type(self.head).__name__.lower())

    def fit_standardization(self, theta: Tensor, x: Tensor) -> None:
        """Set the z-scoring of x `(N, Dx)` and of unconstrained theta `(N, D)` from data."""
        self.standardize.fit(x, min_std=MIN_STD)
        self.bijection.fit(theta)

    def forward(self, x: Tensor) -> Pushforward:
        """Return q(theta|x) for `x (B, Dx)`: batch shape `(B,)`, event shape `(D,)`."""
        require(
            x.ndim >= 1 and x.shape[-1] == self.dim_x,
            "x.shape",
            tuple(x.shape),
            f"(..., {self.dim_x})",
        )
        return Pushforward(self.head(self.context(x)), self.bijection)

    def loss(self, theta: Tensor, x: Tensor, q: Distribution | None = None) -> Tensor:
        """Return the loss of neural posterior estimation: the mean of -log q(theta|x), a scalar.

        Args:
            theta: Parameters of shape `(B, D)`.
            x: Observations simulated from them, shape `(B, Dx)`.
            q: The posterior at x where it is known already, which saves a forward pass.
        """
        return -(self(x) if q is None else q).log_prob(theta).mean()

    def context(self, x: Tensor) -> Tensor:
        """Return what the head sees of `x (*, Dx)`."""
        return self.embedding(self.standardize(x))

    @property
    def score_method(self) -> ScoreMethod:
        """How `scores` works, which decides what it costs: `compiled`; `embedded` if the head's
        part is compiled, and the embedding net is left to automatic differentiation;
        `differentiated` if all of it is."""
        if not getattr(self.head, "is_compiled", False):
            return "differentiated"
        return "compiled" if isinstance(self.embedding, Identity) else "embedded"

    def scores(self, x: Tensor, num_samples: int, generator: Generator, attached: bool) -> Tensor:
        """Return grad_x log q(theta_s|x), theta_s ~ q(.|x): see `robust_npe.fisher.scores`."""
        if self.score_method == "differentiated":
            # the score does not change under a bijection of theta that does not depend on x
            return differentiated_scores(
                lambda x: self(x).base, x, num_samples, generator, attached
            )
        copies = x.detach().expand(num_samples, *x.shape).reshape(-1, x.shape[-1])
        with torch.set_grad_enabled(attached):
            return self._compiled_scores(copies, generator).reshape(num_samples, *x.shape)

    def _compiled_scores(self, x: Tensor, generator: Generator) -> Tensor:
        """One score for each row of `x (N, Dx)`."""
        head = cast(Any, self.head)
        if self.score_method == "compiled":  # needs no graph between x and its context
            gradient, weight = head.sampled_score(self.context(x), generator)
            return gradient * (weight.sqrt().unsqueeze(1) / self.standardize.std)
        attached = torch.is_grad_enabled()
        with torch.enable_grad():
            context = self.context(x.requires_grad_(True))
            gradient, weight = head.sampled_score(context, generator)
            (score,) = torch.autograd.grad(context, x, gradient, create_graph=attached)
        return score * weight.sqrt().unsqueeze(1)
