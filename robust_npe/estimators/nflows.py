"""Normalizing flows built on nflows, the library that sbi trains by default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from nflows.nn.nets import ResidualNet
from nflows.transforms import (
    CompositeTransform,
    LULinear,
    MaskedAffineAutoregressiveTransform,
    MaskedPiecewiseRationalQuadraticAutoregressiveTransform,
    PiecewiseRationalQuadraticCouplingTransform,
    RandomPermutation,
    ReversePermutation,
)
from nflows.utils.torchutils import create_alternating_binary_mask
from torch import Size, Tensor, nn
from torch.distributions import Distribution, Normal
from torch.distributions.constraints import Constraint
from typing_extensions import override

from robust_npe.antithetic import Antithetic
from robust_npe.checks import require, require_positive, require_positive_integer, require_widths
from robust_npe.estimators.interfaces import Head, ScoreMethod
from robust_npe.shapes import broadcast_shapes

__all__ = ["NflowsDistribution", "NflowsMAF", "NflowsNSF", "SbiMAF", "SbiNSF"]


class NflowsDistribution(Antithetic, Distribution):
    """An nflows transform with a standard normal base, conditioned on a batch of contexts.

    Args:
        transform: The nflows transform from theta to the base space.
        context: Shape `(*, C)`.
        dim_theta: Number of parameters D.
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012 (torch's interface)
    has_rsample = True

    def __init__(self, transform: CompositeTransform, context: Tensor, dim_theta: int) -> None:
        self.transform = transform
        self.context = context
        super().__init__(context.shape[:-1], Size([dim_theta]), validate_args=False)

    def log_prob(self, theta: Tensor) -> Tensor:
        """Return the log density of `theta (*, D)`."""
        z, log_det = self._apply(self.transform, theta)
        return self._base_log_prob(z) + log_det

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw reparameterised samples of shape `(*sample_shape, *batch_shape, D)`."""
        return self._draw(sample_shape)[0]

    def rsample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Draw samples together with their log density."""
        theta, z, log_det = self._draw(sample_shape)
        return theta, self._base_log_prob(z) - log_det

    def _draw(self, sample_shape: Any) -> tuple[Tensor, Tensor, Tensor]:
        shape = self.batch_shape + self.event_shape
        z = self._normal_noise(Size(sample_shape), shape, self.context)
        theta, log_det = self._apply(self.transform.inverse, z)
        return theta, z, log_det

    def _apply(self, function: Callable[..., Any], inputs: Tensor) -> tuple[Tensor, Tensor]:
        """nflows knows one batch dimension only: flatten, apply, restore."""
        shape = broadcast_shapes(inputs.shape[:-1], self.batch_shape)
        flat = inputs.expand(*shape, -1).reshape(-1, inputs.shape[-1])
        context = self.context.expand(*shape, -1).reshape(-1, self.context.shape[-1])
        outputs, log_det = function(flat, context)
        return outputs.reshape(*shape, -1), log_det.reshape(shape)

    @staticmethod
    def _base_log_prob(z: Tensor) -> Tensor:
        return Normal(0.0, 1.0, validate_args=False).log_prob(z).sum(-1)


class _NflowsFlow(Head):
    """Several times the layers that `make_layers` returns for the number of the transform.

    The first coordinate of nflows' MADE does not see the context at all, so the order has to
    change between transforms, and one parameter alone cannot be estimated.
    """

    @property
    @override
    def score_method(self) -> ScoreMethod:
        """See `Head.score_method`."""
        return "inverted"

    def __init__(
        self, dim_theta: int, transforms: int, make_layers: Callable[[int], list[nn.Module]]
    ) -> None:
        super().__init__()
        require(
            dim_theta > 1,
            "dim_theta",
            dim_theta,
            "at least 2 for nflows estimators, whose first coordinate ignores the observation; "
            "use estimator=maf or estimator=nsf",
        )
        require_positive_integer("estimator.transforms", transforms)
        require(transforms > 1, "estimator.transforms", transforms, "at least 2")
        self.dim_theta = dim_theta
        layers = [layer for i in range(transforms) for layer in make_layers(i)]
        self.transform = CompositeTransform(layers)

    def forward(self, context: Tensor) -> NflowsDistribution:
        """Return the flow for `context (*, C)`."""
        return NflowsDistribution(self.transform, context, self.dim_theta)


class NflowsMAF(_NflowsFlow):
    """Masked autoregressive flow of nflows.

    Args:
        dim_theta: Number of parameters D, at least 2.
        dim_context: Number of features of the context.
        transforms: Number of autoregressive transforms.
        hidden: Widths of the hidden layers; nflows wants them equal.
    """

    name = "nflows_maf"

    def __init__(
        self,
        dim_theta: int,
        dim_context: int,
        transforms: int = 3,
        hidden: Sequence[int] = (100, 100),
    ) -> None:
        layer = _made_settings(dim_theta, dim_context, hidden)

        def make_layers(_: int) -> list[nn.Module]:
            return [ReversePermutation(dim_theta), MaskedAffineAutoregressiveTransform(**layer)]

        super().__init__(dim_theta, transforms, make_layers)


class NflowsNSF(_NflowsFlow):
    """Neural spline flow of nflows.

    Args:
        dim_theta: Number of parameters D, at least 2.
        dim_context: Number of features of the context.
        transforms: Number of autoregressive transforms.
        bins: Number of spline bins.
        bound: The splines act on [-bound, bound], in z-scored units.
        hidden: Widths of the hidden layers; nflows wants them equal.
    """

    name = "nflows_nsf"

    def __init__(
        self,
        dim_theta: int,
        dim_context: int,
        transforms: int = 3,
        bins: int = 12,
        bound: float = 10.0,
        hidden: Sequence[int] = (100, 100),
    ) -> None:
        require_positive_integer("estimator.bins", bins)
        require(bins > 1, "estimator.bins", bins, "at least 2")
        require_positive("estimator.bound", bound)
        layer = _made_settings(dim_theta, dim_context, hidden)
        layer |= {"num_bins": int(bins), "tails": "linear", "tail_bound": bound}

        def make_layers(_: int) -> list[nn.Module]:
            spline = MaskedPiecewiseRationalQuadraticAutoregressiveTransform(**layer)
            return [ReversePermutation(dim_theta), spline]

        super().__init__(dim_theta, transforms, make_layers)


class SbiMAF(_NflowsFlow):
    """The masked autoregressive flow that sbi trains by default (`NPE(density_estimator="maf")`).

    References:
        sbi 0.27, https://github.com/sbi-dev/sbi, `neural_nets/net_builders/flow.py`.

    Args:
        dim_theta: Number of parameters D, at least 2.
        dim_context: Number of features of the context.
        transforms: Number of autoregressive transforms, with random permutations after them.
        hidden: Width of all layers.
        blocks: Number of hidden layers after the first.
    """

    name = "sbi_maf"

    def __init__(
        self,
        dim_theta: int,
        dim_context: int,
        transforms: int = 5,
        hidden: int = 50,
        blocks: int = 2,
    ) -> None:
        for key, value in (("hidden", hidden), ("blocks", blocks)):
            require_positive_integer(f"estimator.{key}", value)
        layer = _made_settings(dim_theta, dim_context, [hidden] * blocks)
        layer["activation"] = torch.tanh

        def make_layers(_: int) -> list[nn.Module]:
            affine = MaskedAffineAutoregressiveTransform(**layer)
            return [affine, RandomPermutation(dim_theta)]

        super().__init__(dim_theta, transforms, make_layers)


class _LULinear(LULinear):
    """nflows' own inverse calls a function that torch has deprecated."""

    def inverse_no_cache(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = self._create_lower_upper()
        columns = (inputs - self.bias).T
        columns = torch.linalg.solve_triangular(lower, columns, upper=False, unitriangular=True)
        outputs = torch.linalg.solve_triangular(upper, columns, upper=True).T
        return outputs, -self.logabsdet().expand(len(outputs))


class SbiNSF(_NflowsFlow):
    """The neural spline flow that sbi trains by default (`NPE(density_estimator="nsf")`): coupling
    transforms with residual networks, and learned linear maps between them.

    References:
        sbi 0.27, https://github.com/sbi-dev/sbi, `neural_nets/net_builders/flow.py`.

    Args:
        dim_theta: Number of parameters D, at least 2.
        dim_context: Number of features of the context.
        transforms: Number of coupling transforms.
        bins: Number of spline bins.
        bound: The splines act on [-bound, bound], in z-scored units.
        hidden: Width of all layers.
        blocks: Number of residual blocks.
    """

    name = "sbi_nsf"

    def __init__(
        self,
        dim_theta: int,
        dim_context: int,
        transforms: int = 5,
        bins: int = 10,
        bound: float = 3.0,
        hidden: int = 50,
        blocks: int = 2,
    ) -> None:
        for key, value in (("bins", bins), ("hidden", hidden), ("blocks", blocks)):
            require_positive_integer(f"estimator.{key}", value)
        require(bins > 1, "estimator.bins", bins, "at least 2")
        require_positive("estimator.bound", bound)

        def make_network(dim_in: int, dim_out: int) -> ResidualNet:
            return ResidualNet(dim_in, dim_out, hidden, dim_context, num_blocks=blocks)

        def make_layers(i: int) -> list[nn.Module]:
            mask = create_alternating_binary_mask(dim_theta, even=i % 2 == 0)
            spline = PiecewiseRationalQuadraticCouplingTransform(
                mask, make_network, num_bins=int(bins), tails="linear", tail_bound=bound
            )
            return [spline, _LULinear(dim_theta, identity_init=True)]

        super().__init__(dim_theta, transforms, make_layers)


def _made_settings(dim_theta: int, dim_context: int, hidden: Sequence[int]) -> dict[str, Any]:
    require_widths("estimator.hidden", hidden, least=1)
    require(len(set(hidden)) == 1, "estimator.hidden", hidden, "layers of equal width")
    return {
        "features": dim_theta,
        "hidden_features": hidden[0],
        "context_features": dim_context,
        "num_blocks": len(hidden),
        "use_residual_blocks": False,
    }
