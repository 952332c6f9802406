"""Autoregressive flows at a batch of contexts: cheap for many samples of theta per observation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Generator, Size, Tensor, nn
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint
from typing_extensions import override

from robust_npe.antithetic import Antithetic
from robust_npe.checks import require_positive_integer, require_widths
from robust_npe.estimators.activation import limited, limited_slope
from robust_npe.estimators.conditioner import NUM_DIRECT, BoundConditioner, Conditioner
from robust_npe.estimators.interfaces import Head, ScoreMethod
from robust_npe.estimators.inverse import invert, solve
from robust_npe.estimators.kernels import fits_kernels
from robust_npe.estimators.univariate import Affine, AffineSpline, Univariate
from robust_npe.shapes import broadcast_shapes

__all__ = ["AutoregressiveDistribution", "AutoregressiveFlow"]

MAX_COLUMNS = 4096  # larger batches go in pieces whose activations fit into the cache
MIN_COMPILED = 256  # columns; fewer are not worth the import of numba
LOG_2PI = math.log(2 * math.pi)


class AutoregressiveFlow(Head):
    r"""Normalizing flow of masked autoregressive transforms with a standard normal base.

    Each transform maps z_i = f(theta_i; phi_i(theta_{<i}, context)); the order of the coordinates
    is reversed from one transform to the next.

    References:
        Papamakarios, Pavlakou & Murray (2017), "Masked autoregressive flow for density
        estimation", https://arxiv.org/abs/1705.07057

    Args:
        dim_theta: Number of parameters D.
        dim_context: Number of features C of the context.
        univariate: What is applied to each coordinate; its first two parameters are a shift and a
            log slope.
        transforms: Number of transforms.
        hidden: Widths of the hidden layers of each conditioner, at least one.
        passes: Sequential steps of the inverse, None for D. The coordinates are divided into so
            many groups, and depend on those of earlier groups only.
    """

    version: ClassVar[int] = 2

    def __init__(
        self,
        dim_theta: int,
        dim_context: int,
        univariate: Univariate,
        transforms: int = 3,
        hidden: Sequence[int] = (100, 100),
        passes: int | None = None,
    ) -> None:
        super().__init__()
        require_positive_integer("estimator.transforms", transforms)
        require_widths("estimator.hidden", hidden, least=1)
        require_positive_integer("estimator.passes", passes, or_null=True)
        self.dim_theta = dim_theta
        self.univariate = univariate
        # one product serves the first layers of all transforms
        self.context = nn.Linear(dim_context, transforms * hidden[0])
        self.direct = nn.Linear(dim_context, transforms * NUM_DIRECT * dim_theta, bias=False)
        groups = _groups(dim_theta, passes)
        self.conditioners = nn.ModuleList(
            Conditioner(groups, univariate.num_parameters, hidden) for _ in range(transforms)
        )
        self._initialize(bound=(dim_theta + dim_context) ** -0.5)

    def _initialize(self, bound: float) -> None:
        """First layers see theta and context: as for one layer on both together."""
        first = [c.first.weight for c in self.conditioners if isinstance(c.first, nn.Linear)]
        for parameter in (self.context.weight, self.context.bias, *first):
            nn.init.uniform_(parameter, -bound, bound)
        nn.init.zeros_(self.direct.weight)

    def forward(self, context: Tensor) -> AutoregressiveDistribution:
        """Return the flow for `context (*, C)`: batch shape `(*)`, event shape `(D,)`."""
        columns = limited(context.reshape(-1, context.shape[-1])).T
        first = torch.addmm(self.context.bias.unsqueeze(1), self.context.weight, columns)
        terms = first, self.direct.weight @ columns
        nets = [cast(Conditioner, conditioner) for conditioner in self.conditioners]
        parts = (term.chunk(len(nets)) for term in terms)
        bound = [net.bind(*part) for net, *part in zip(nets, *parts, strict=True)]
        event_shape = Size([self.dim_theta])
        batch_shape = context.shape[:-1]
        return AutoregressiveDistribution(bound, terms, self.univariate, batch_shape, event_shape)

    @property
    @override
    def score_method(self) -> ScoreMethod:
        """See `Head.score_method`; `compiled` where `sampled_score` works."""
        works = _is_compiled(self.univariate) and fits_kernels(self.context.weight)
        return "compiled" if works else "inverted"

    def sampled_score(self, context: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw one theta for each context, and return the gradient of its log density.

        Args:
            context: Shape `(N, C)`.
            generator: Source of the samples, which are those of `weighted_noise`.

        Returns:
            The gradient of log q(theta) with respect to the context, `(N, C)`, which can be
            differentiated once more, theta being reparameterised; and the weights of theta, `(N,)`.
        """
        # numba takes long to import
        from robust_npe.estimators.kernels.sampled_score import sampled_score
        from robust_npe.estimators.kernels.weighted_noise import weighted_noise

        z, weight = weighted_noise(len(context), self.dim_theta, generator, context.dtype)
        conditioners = [cast(Conditioner, conditioner) for conditioner in self.conditioners]
        layers = self.context, self.direct
        score = sampled_score(*layers, conditioners, self.univariate, limited(context), z)
        return score * limited_slope(context), weight


def _is_compiled(univariate: Univariate) -> bool:
    """Tell whether there are kernels for transforms of this kind."""
    return isinstance(univariate, Affine | AffineSpline)


def _groups(dim: int, passes: int | None) -> list[int]:
    """Number of coordinates in each group, in order."""
    size = math.ceil(dim / min(passes or dim, dim))
    return [min(size, dim - start) for start in range(0, dim, size)]


class AutoregressiveDistribution(Antithetic, Distribution):
    """q(theta|x) of an `AutoregressiveFlow` at a batch of observations.

    What depends on the observations alone is computed once and shared by all samples.

    Args:
        conditioners: One for each transform, in the order from theta to z.
        terms: Their context terms, `(T * H, B)`, and their direct terms, `(T * 2 D, B)`.
        univariate: What is applied to each coordinate.
        batch_shape: Shape of the batch, B observations in total.
        event_shape: `(D,)`.
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012 (torch's interface)
    has_rsample = True

    def __init__(
        self,
        conditioners: Sequence[BoundConditioner],
        terms: tuple[Tensor, Tensor],
        univariate: Univariate,
        batch_shape: Size,
        event_shape: Size,
    ) -> None:
        self._conditioners = conditioners
        self._terms = terms
        self._univariate = univariate
        super().__init__(batch_shape, event_shape, validate_args=False)

    def log_prob(self, theta: Tensor) -> Tensor:
        """Return the log density of `theta (*sample_shape, *batch_shape, D)`, broadcast."""
        shape = broadcast_shapes(theta.shape[:-1], self.batch_shape)
        theta = theta.expand(*shape, -1)
        if self._fits_kernels(shape.numel()):
            from robust_npe.estimators.kernels import density  # numba takes long to import

            columns = theta.reshape(-1, theta.shape[-1]).T.contiguous()
            parts = self._conditioners, self._univariate, columns, torch.cat(self._terms)
            return density.log_prob(*parts, self._log_prob).reshape(shape)
        pieces = self._pieces(theta)
        return torch.cat([self._log_prob(piece) for piece in pieces]).reshape(shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw samples of shape `(*sample_shape, *batch_shape, D)`, differentiable once."""
        if not torch.is_grad_enabled():
            return self.rsample_and_log_prob(sample_shape)[0]
        z = self._noise(sample_shape)
        theta = [self._inverse(piece) for piece in self._pieces(z)]
        return torch.cat(theta, dim=1).T.reshape(z.shape)

    def rsample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Draw samples together with their log density."""
        if torch.is_grad_enabled():
            theta = self.rsample(sample_shape)
            return theta, self.log_prob(theta)
        z = self._noise(sample_shape)
        if self._fits_kernels(z.shape[:-1].numel()):
            from robust_npe.estimators.kernels import density

            columns = z.reshape(-1, z.shape[-1]).T.contiguous()
            parts = self._conditioners, self._univariate, columns, torch.cat(self._terms)
            found = density.sample_and_log_prob(*parts)
            return found[0].T.reshape(z.shape), found[1].view(z.shape[:-1])
        pairs = [self._inverse_and_log_prob(piece) for piece in self._pieces(z)]
        samples, log_prob = zip(*pairs, strict=True)
        return torch.cat(samples, dim=1).T.reshape(z.shape), torch.cat(log_prob).view(z.shape[:-1])

    def _fits_kernels(self, columns: int) -> bool:
        """Tell whether compiled code is of use: for many columns, on one thread, since the products
        in a tile are too small to be shared."""
        has_kernels = columns >= MIN_COMPILED and torch.get_num_threads() == 1
        return has_kernels and _is_compiled(self._univariate) and fits_kernels(self._terms[0])

    def _noise(self, sample_shape: Any) -> Tensor:
        like = self._conditioners[0].context_term
        return self._normal_noise(Size(sample_shape), self.batch_shape + self.event_shape, like)

    def _pieces(self, theta: Tensor) -> Iterator[Tensor]:
        """Cut `(*, *batch_shape, D)` into columns `(D, S * B)` of a few samples each."""
        batch = self._conditioners[0].context_term.shape[1]
        samples = theta.reshape(-1, batch, theta.shape[-1])
        for piece in samples.split(max(1, MAX_COLUMNS // max(1, batch))):
            yield piece.flatten(0, 1).T.contiguous()

    def _log_prob(
        self,
        theta: Tensor,
        terms: Tensor | None = None,
        nets: Sequence[BoundConditioner] | None = None,
    ) -> Tensor:
        """Return the log density of columns `(D, N)`, at these terms and of these conditioners, or
        at its own."""
        nets = nets or self._conditioners
        if terms is not None:
            parts = (p.chunk(len(nets)) for p in terms.split([len(p) for p in self._terms]))
            both = zip(nets, *parts, strict=True)
            nets = [net._replace(context_term=c, direct_term=d) for net, c, d in both]
        log_prob: Tensor | float = 0.0
        for i, conditioner in enumerate(nets):
            theta = theta.flip(0) if i else theta
            theta, log_slope = self._univariate.forward(theta, conditioner.parameters(theta))
            log_prob = log_prob + log_slope.sum(0)
        return log_prob + _standard_normal(theta)

    def _inverse(self, z: Tensor) -> Tensor:
        for i, conditioner in reversed(list(enumerate(self._conditioners))):
            z = invert(conditioner, self._univariate, z)
            z = z.flip(0) if i else z
        return z

    def _inverse_and_log_prob(self, z: Tensor) -> tuple[Tensor, Tensor]:
        log_prob = _standard_normal(z)
        for i, conditioner in reversed(list(enumerate(self._conditioners))):
            z, log_slope, _ = solve(conditioner, self._univariate, z)
            log_prob = log_prob + log_slope.sum(0)
            z = z.flip(0) if i else z
        return z, log_prob


def _standard_normal(z: Tensor) -> Tensor:
    """Log density of the columns of `z (D, N)`."""
    return -0.5 * (z.square().sum(0) + z.shape[0] * LOG_2PI)
