"""Normalizing flows built on nflows, the library that sbi trains by default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from nflows.transforms import (
    CompositeTransform,
    MaskedAffineAutoregressiveTransform,
    MaskedPiecewiseRationalQuadraticAutoregressiveTransform,
    ReversePermutation,
)
from torch import Size, Tensor, nn
from torch.distributions import Distribution, Normal
from torch.distributions.constraints import Constraint

from robust_npe.antithetic import Antithetic
from robust_npe.checks import require
from robust_npe.estimators.interfaces import Head

__all__ = ["NflowsDistribution", "NflowsMAF", "NflowsNSF"]


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
        shape = torch.broadcast_shapes(inputs.shape[:-1], self.batch_shape)
        flat = inputs.expand(*shape, -1).reshape(-1, inputs.shape[-1])
        context = self.context.expand(*shape, -1).reshape(-1, self.context.shape[-1])
        outputs, log_det = function(flat, context)
        return outputs.reshape(*shape, -1), log_det.reshape(shape)

    @staticmethod
    def _base_log_prob(z: Tensor) -> Tensor:
        return Normal(0.0, 1.0, validate_args=False).log_prob(z).sum(-1)


class _NflowsFlow(Head):
    """Autoregressive transforms with reversed order in between.

    The first coordinate of nflows' MADE does not see the context at all, so the order has to
    change between transforms, and one parameter alone cannot be estimated.
    """

    def __init__(
        self, dim_theta: int, transforms: int, make_layer: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        require(
            dim_theta > 1,
            "dim_theta",
            dim_theta,
            "at least 2 for nflows estimators, whose first coordinate ignores the observation; "
            "use estimator=maf or estimator=nsf",
        )
        require(transforms > 1, "estimator.transforms", transforms, "an integer above 1")
        self.dim_theta = dim_theta
        layers: list[nn.Module] = []
        for _ in range(transforms):
            layers += [ReversePermutation(dim_theta), make_layer()]
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
        super().__init__(
            dim_theta, transforms, lambda: MaskedAffineAutoregressiveTransform(**layer)
        )


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
        require(bins > 1, "estimator.bins", bins, "an integer above 1")
        require(bound > 0, "estimator.bound", bound, "a positive number")
        layer = _made_settings(dim_theta, dim_context, hidden)
        layer |= {"num_bins": bins, "tails": "linear", "tail_bound": bound}
        super().__init__(
            dim_theta,
            transforms,
            lambda: MaskedPiecewiseRationalQuadraticAutoregressiveTransform(**layer),
        )


def _made_settings(dim_theta: int, dim_context: int, hidden: Sequence[int]) -> dict[str, Any]:
    require(len(set(hidden)) == 1, "estimator.hidden", hidden, "layers of equal width")
    return {
        "features": dim_theta,
        "hidden_features": hidden[0],
        "context_features": dim_context,
        "num_blocks": len(hidden),
        "use_residual_blocks": False,
    }
