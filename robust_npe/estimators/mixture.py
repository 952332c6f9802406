"""Mixture density networks (mixtures of diagonal Gaussians)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, Normal
from torch.distributions.constraints import Constraint

from robust_npe.antithetic import Antithetic, pair_shape, paired
from robust_npe.checks import require_positive_integer, require_widths
from robust_npe.estimators.embeddings import mlp
from robust_npe.estimators.gaussian import LOG_STD_LIMIT
from robust_npe.estimators.interfaces import Head
from robust_npe.estimators.univariate import soft_clip

__all__ = ["GaussianMixture", "MixtureDensityNetwork"]

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
MAX_DISTANCE = 1e18  # in standard deviations of a component: its square is a number


class GaussianMixture(Antithetic, Distribution):
    r"""Mixture of K diagonal Gaussians whose samples carry gradients.

    Samples of a mixture are not a smooth function of noise (the component is discrete), but the
    map to uniforms u_d = F(theta_d | theta_{<d}) is smooth and monotone in theta_d. Implicit
    differentiation of u(theta(phi), phi) = const gives exact first derivatives
    dtheta/dphi = -(du/dtheta)^{-1} du/dphi. Both samples of an antithetic pair come from the same
    component.

    References:
        Figurnov, Mohamed & Mnih (2018), "Implicit reparameterization gradients",
        https://arxiv.org/abs/1805.08498

    Args:
        logits: Unnormalised log weights, shape `(*, K)`.
        means: Shape `(*, K, D)`.
        stds: Shape `(*, K, D)`, not negative; components too narrow for the type of the numbers
            are as narrow as it allows.
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012 (torch's interface)
    has_rsample = True

    def __init__(self, logits: Tensor, means: Tensor, stds: Tensor) -> None:
        self.log_weights = logits.log_softmax(-1)
        self.means = means
        self.stds = stds.clamp(min=torch.finfo(stds.dtype).tiny)
        self._components = Normal(means, self.stds, validate_args=False)
        super().__init__(logits.shape[:-1], means.shape[-1:], validate_args=False)

    def log_prob(self, theta: Tensor) -> Tensor:
        """Return the log density of `theta (*, D)`."""
        return (self._component_log_probs(theta).sum(-1) + self.log_weights).logsumexp(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw samples of shape `(*sample_shape, *batch_shape, D)`."""
        count = Size(sample_shape)
        pairs = self._pairs(count)
        drawn = pair_shape(count) if pairs else count
        with torch.no_grad():
            shape = drawn + self.batch_shape
            weights = self.log_weights.exp().expand(*shape, -1)
            k = torch.multinomial(weights.reshape(-1, weights.shape[-1]), 1).reshape(*shape, 1, 1)
            k = k.expand(*shape, 1, *self.event_shape)
            mean = self.means.expand(*shape, -1, -1).gather(-2, k).squeeze(-2)
            std = self.stds.expand(*shape, -1, -1).gather(-2, k).squeeze(-2)
            shift = std * torch.randn_like(mean)
        return paired(mean + shift, mean - shift, count[0]) if pairs else mean + shift

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw samples with exact first derivatives with respect to the mixture's parameters."""
        theta = self.sample(sample_shape)
        parameters = (self.log_weights, self.means, self.stds)
        if not (torch.is_grad_enabled() and any(p.requires_grad for p in parameters)):
            return theta
        with torch.no_grad():
            jacobian = self._uniforms_jacobian(theta)
        u = self._uniforms(theta)
        change = (u - u.detach()).unsqueeze(-1)
        return theta - torch.linalg.solve_triangular(jacobian, change, upper=False).squeeze(-1)

    def carried(self, theta: Tensor, other: GaussianMixture) -> Tensor:
        """Return the sample of `other`, a mixture nearby, that belongs to the same uniforms as
        `theta (*, D)` does here: one step of Newton's method, differentiable."""
        change = (other._uniforms(theta) - self._uniforms(theta)).unsqueeze(-1)
        jacobian = self._uniforms_jacobian(theta)
        return theta - torch.linalg.solve_triangular(jacobian, change, upper=False).squeeze(-1)

    def _component_log_probs(self, theta: Tensor) -> Tensor:
        """Log density of each coordinate under each component, `(*, K, D)`."""
        # without a limit, the square of a distance overflows and its gradient is not a number
        z = ((theta.unsqueeze(-2) - self.means) / self.stds).clamp(-MAX_DISTANCE, MAX_DISTANCE)
        return -0.5 * z.square() - self.stds.log() - HALF_LOG_2PI

    def _weights_given_previous(self, theta: Tensor) -> Tensor:
        """w_k(theta_{<d}), the weights of the conditional of coordinate d: `(*, K, D)`."""
        log_probs = self._component_log_probs(theta)
        previous = log_probs.cumsum(-1) - log_probs
        return (self.log_weights.unsqueeze(-1) + previous).softmax(-2)

    def _uniforms(self, theta: Tensor) -> Tensor:
        """u_d = F(theta_d | theta_{<d}), shape `(*, D)`."""
        cdf = self._components.cdf(theta.unsqueeze(-2))
        return (self._weights_given_previous(theta) * cdf).sum(-2)

    def _uniforms_jacobian(self, theta: Tensor) -> Tensor:
        """du/dtheta in closed form, lower triangular, `(*, D, D)`."""
        normal = self._components
        weights = self._weights_given_previous(theta)
        cdf = normal.cdf(theta.unsqueeze(-2))
        density = self._component_log_probs(theta).exp()
        slope = (self.means - theta.unsqueeze(-2)) / self.stds**2
        # d/dtheta_j of sum_k w_kd cdf_kd for j < d: the weights move, w_kd being a softmax
        joint = torch.einsum("...kd,...kd,...kj->...dj", weights, cdf, slope)
        mean_cdf = (weights * cdf).sum(-2).unsqueeze(-1)
        mean_slope = torch.einsum("...kd,...kj->...dj", weights, slope)
        below = torch.tril(joint - mean_cdf * mean_slope, diagonal=-1)
        diagonal = (weights * density).sum(-2).clamp(min=torch.finfo(theta.dtype).tiny)
        return below + torch.diag_embed(diagonal)


class MixtureDensityNetwork(Head):
    """Mixture of diagonal Gaussians whose parameters a network computes.

    References:
        Bishop (1994), "Mixture density networks".

    Args:
        dim_theta: Number of parameters D.
        dim_context: Number of features of the context.
        components: Number of Gaussians K.
        hidden: Widths of the hidden layers.
    """

    name = "mdn"
    version: ClassVar[int] = 2

    def __init__(
        self,
        dim_theta: int,
        dim_context: int,
        components: int = 10,
        hidden: Sequence[int] = (200, 200),
    ) -> None:
        super().__init__()
        require_positive_integer("estimator.components", components)
        self.components = components
        self.dim_theta = dim_theta
        require_widths("estimator.hidden", hidden)
        self.net = mlp(dim_context, hidden, components * (2 * dim_theta + 1))

    def forward(self, context: Tensor) -> GaussianMixture:
        """Return the mixture for `context (*, C)`."""
        k, d = self.components, self.dim_theta
        logits, means, log_stds = self.net(context).split([k, k * d, k * d], dim=-1)
        stds = soft_clip(log_stds, LOG_STD_LIMIT).exp()
        return GaussianMixture(logits, means.unflatten(-1, (k, d)), stds.unflatten(-1, (k, d)))
