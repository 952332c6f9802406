r"""Amortized posteriors: modules whose forward pass returns a distribution over theta."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Generator, Size, Tensor, nn
from torch.distributions import Distribution, kl_divergence, register_kl
from torch.distributions.constraints import Constraint

from robust_npe.antithetic import antithetic
from robust_npe.checks import require
from robust_npe.estimators.bijection import Bijection, Labels, map_onto
from robust_npe.estimators.embeddings import Identity
from robust_npe.estimators.interfaces import Embedding, Head, ScoreMethod
from robust_npe.estimators.standardize import is_squeezed, standardization
from robust_npe.posterior import differentiated_scores
from robust_npe.tasks.base import Task

__all__ = ["Estimator", "Pushforward"]

log = logging.getLogger(__name__)


class Pushforward(Distribution):
    """The distribution of theta = f(z) for z from a base distribution on R^D.

    Unlike `torch.distributions.TransformedDistribution`, the log density outside of the support is
    minus infinity, and samples come with their log density where the base offers that.

    Args:
        base: Distribution of z, batch shape `(B,)`, event shape `(D,)`.
        bijection: The map f from R^D onto the support.
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012 (torch's interface)
    bounds_itself = True  # see `posterior.log_prob`

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
        """See the function `antithetic`."""
        return Pushforward(antithetic(self.base), self.bijection)

    def log_prob(self, theta: Tensor) -> Tensor:
        """Return log q(theta) for `theta (*, B, D)`, shape `(*, B)`."""
        theta = torch.as_tensor(theta, dtype=self.bijection.dtype)
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


class Estimator(nn.Module):
    """An amortized posterior q(theta|x).

    x is standardised, embedded, and handed to a head that returns a distribution on R^D; that is
    moved onto the support of the prior by a fixed bijection. Everything that depends on data
    units is inside, so x and theta are always in the task's own units.

    Args:
        head: Builds the head from D and the number of features of the context: the class of a
            head, or one with its settings bound by `functools.partial`.
        embedding: Builds the embedding net from the number of features of x, likewise.
        dim_theta: Number of parameters D.
        dim_x: Number of features Dx.
        support: Support of the prior over theta.
        standardize: How x is brought to order one. `zscore`: mean and standard deviation;
            `published`: the same, the latter at least 0.05; `robust`: median and central 90 %,
            outliers are kept within 10; `auto`: `robust` for features that have one sign, `zscore`
            for the others; `log`: logarithm of x, or of |x| with its sign where that
            changes, then z-scored; `none`: not at all.

    Attributes:
        name: Name of the density estimator, for tables.
        models_x: See `Head`: theta are latent variables then, with the prior N(0, I).
        classifies: See `Head`: theta is a label then.
        version: Raise it when the same head and embedding come to mean another posterior.
        theta_names: Names of the parameters, for messages.
        x_names: Names of the features, for messages.
        remarks: What was noticed about the training data.

    Raises:
        ConfigError: Parameters with this support cannot be estimated, see `vector_support`.
    """

    version: ClassVar[int] = 2

    def __init__(
        self,
        head: Callable[[int, int], Head],
        embedding: Callable[[int], Embedding],
        dim_theta: int,
        dim_x: int,
        support: Constraint,
        standardize: str = "auto",
    ) -> None:
        super().__init__()
        self.dim_theta = dim_theta
        self.dim_x = dim_x
        self.theta_names = [f"theta_{i + 1}" for i in range(dim_theta)]
        self.x_names = [f"x_{i + 1}" for i in range(dim_x)]
        self.remarks: list[str] = []
        self.standardize = standardization(standardize, dim_x)
        self.bijection = map_onto(support, dim_theta)
        self.embedding = embedding(dim_x)
        # `functools.partial` keeps the class as `func`
        self.models_x: bool = getattr(getattr(head, "func", head), "models_x", False)
        dims = {"dim_x": dim_x} if self.models_x else {}
        self.classifies = isinstance(self.bijection, Labels)
        if isinstance(self.bijection, Labels):
            dims["num_classes"] = self.bijection.num_classes
        offers = getattr(getattr(head, "func", head), "classifies", False)
        expected = "a classifier for tasks whose theta is a label, and for no others"
        require(offers == self.classifies, "estimator", _class_name(head), expected)
        self.head = head(dim_theta, self.embedding.dim_out, **dims)
        self.name: str = getattr(self.head, "name", type(self.head).__name__.lower())

    @property
    def label(self) -> str:
        """Its name, with what tables must say beside it."""
        return " ".join(filter(None, (self.name, getattr(self.head, "remark", ""))))

    @classmethod
    def for_task(
        cls,
        task: Task,
        head: Callable[[int, int], Head],
        embedding: Callable[[int], Embedding],
        standardize: str = "auto",
    ) -> Estimator:
        """Return a fresh estimator of a task's posterior; other arguments as for the class.

        Raises:
            ConfigError: The head learns from theta, and the task has none, or the other way round.
        """
        dims = task.dim_theta, task.dim_x
        estimator = cls(head, embedding, *dims, task.support, standardize)
        has = "theta that generated x" if task.has_theta else "x alone, without theta"
        expected = f"one that learns from what task={task.name} has: {has}"
        require(estimator.models_x != task.has_theta, "estimator", estimator.name, expected)
        estimator.theta_names, estimator.x_names = task.theta_names, task.x_names
        return estimator

    def fit_standardization(self, theta: Tensor, x: Tensor) -> None:
        """Set the standardisation of x `(N, Dx)`, and z-scoring of unconstrained theta `(N, D)`,
        from data; say which of them hardly vary, before or after it."""
        still = self.standardize.fit(x)
        self.embedding.share_statistics(self.standardize)
        squeezed = is_squeezed(self.standardize, x) & ~still
        if self.models_x or self.classifies:
            squeezed = torch.zeros_like(still)  # edges of images hardly vary
        # latent variables have their own unit
        constant = theta.new_zeros(self.dim_theta) if self.models_x else self.bijection.fit(theta)
        of_no_scale = "hardly varies in the training data: it is not scaled to unit variance"
        hidden = "nearly constant once standardised (outliers?): try standardize=robust or log"
        self.remarks = [
            f"{_listed(names, mask)}: {remark}"
            for names, mask, remark in (
                (self.theta_names, constant, of_no_scale),
                (self.x_names, still, of_no_scale),
                (self.x_names, squeezed, hidden),
            )
            if mask.any()
        ]
        for remark in self.remarks:
            log.warning("%s", remark)

    def forward(self, x: Tensor) -> Any:
        """Return q(theta|x) for `x (B, Dx)`: batch shape `(B,)`, event shape `(D,)`."""
        x = self._as_input(x)
        require(
            x.ndim >= 1 and x.shape[-1] == self.dim_x,
            "x.shape",
            tuple(x.shape),
            f"(..., {self.dim_x})",
        )
        q = self.head(self.context(x))
        return q if self.classifies else Pushforward(q, self.bijection)

    def _as_input(self, x: Tensor) -> Tensor:
        """Arrays and tensors of other types are welcome."""
        return torch.as_tensor(x, dtype=self.bijection.dtype)

    def loss(self, theta: Tensor, x: Tensor, q: Distribution | None = None) -> Tensor:
        """Return the loss of neural posterior estimation: the mean of -log q(theta|x), a scalar;
        or what the head is trained with instead, see `Head`.

        Args:
            theta: Parameters of shape `(B, D)`.
            x: Observations simulated from them, shape `(B, Dx)`.
            q: The posterior at x where it is known already, which saves a forward pass.
        """
        q = self(x) if q is None else q
        if self.models_x:
            return cast(Any, self.head).loss(cast(Pushforward, q).base, self._as_input(x))
        own = getattr(self.head, "loss", None)
        if own is None:
            return -q.log_prob(theta).mean()
        return own(cast(Pushforward, q).base, self.bijection.inverse_and_log_det(theta)[0])

    def context(self, x: Tensor) -> Tensor:
        """Return what the head sees of `x (*, Dx)`."""
        return self.embedding(self.standardize(x))

    @property
    def score_method(self) -> ScoreMethod:
        """How `scores` works."""
        method = self.head.score_method
        has_net = not isinstance(self.embedding, Identity)
        return "embedded" if has_net and method == "compiled" else method

    def scores(self, x: Tensor, num_samples: int, generator: Generator, attached: bool) -> Tensor:
        """Return grad_x log q(theta_s|x), theta_s ~ q(.|x): see `robust_npe.fisher.scores`."""
        if self.score_method not in ("compiled", "embedded"):
            # a bijection of theta that does not depend on x leaves the score as it is
            posterior = lambda x: self.head(self.context(self._as_input(x)))  # noqa: E731
            return differentiated_scores(posterior, x, num_samples, generator, attached)
        x = self._as_input(x).detach()
        with torch.set_grad_enabled(attached):
            if self.score_method == "compiled":  # needs no graph between x and its context
                gradient, weight = self._context_scores(self.context(x), num_samples, generator)
                return gradient * (weight.sqrt() / self.standardize.unit(x))
        with torch.enable_grad():
            context = self.context(x.requires_grad_(True))
            with torch.set_grad_enabled(attached):
                gradient, weight = self._context_scores(context, num_samples, generator)
            # the embedding net is evaluated once for all samples of an observation
            by_x = partial(torch.autograd.grad, create_graph=attached, retain_graph=True)
            score = torch.stack([by_x(context, x, row)[0] for row in gradient.unbind()])
        return score * weight.sqrt()

    def _context_scores(
        self, context: Tensor, num_samples: int, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """One gradient by the context for each sample, `(S, B, C)`, and its weight `(S, B, 1)`."""
        copies = context.expand(num_samples, *context.shape).reshape(-1, context.shape[-1])
        gradient, weight = cast(Any, self.head).sampled_score(copies, generator)
        return gradient.reshape(num_samples, *context.shape), weight.reshape(num_samples, -1, 1)


def _class_name(head: Any) -> str:
    return getattr(getattr(head, "func", head), "__name__", type(head).__name__)


def _listed(names: list[str], mask: Tensor, most: int = 5) -> str:
    """Return the first of the names that a mask `(D,)` chooses, and how many more there are."""
    chosen = [name for name, is_chosen in zip(names, mask.tolist(), strict=True) if is_chosen]
    more = f" and {len(chosen) - most} more" if len(chosen) > most else ""
    return ", ".join(chosen[:most]) + more
