r"""Gaussian posteriors as encoders: how far a draw of a wrong posterior is from the right answer.

An encoder maps x to N(mu(x), L(x) L(x)^T), and g says what comes of z ~ q(.|x): the decoder of a
variational autoencoder; for any other Gaussian posterior g(z) = z, in the coordinates of
`Estimator`, whose unit is the prior's standard deviation: the map is the posterior mean. With

    Delta(x~) = g(mu(x~) + L(x~) eta) - g(mu(x)),    eta ~ N(0, I),

x is r-robust at x~ if P(|Delta(x~)| <= r) > 1/2. Its margin is the largest radius of a ball around
it in which it is r-robust everywhere. Lower bounds of it, whatever g is, to first order in the
radius (nothing in them changes on the way), with p = P(|Delta(x)| <= r) and the Jacobian J of mu:

    published     Phi^{-1}(p) min_i sigma_i / |J|_F
    spectral      Phi^{-1}(p) / |L^{-1} J|_2
    Fisher-Rao    arcsin(2 p - 1) / sqrt(lambda_max(I_x))

Spectral: the set of eta with |Delta| <= r has probability p, x~ shifts it by L^{-1} J (x~ - x), and
of all sets of one probability a half-space loses most by a shift. Published: with a norm that is
never smaller. Both take L for constant. Fisher-Rao: where x~ moves at unit speed along u, the
probability of the same set of z changes by the covariance of its indicator and the score along u
under q, which is at most sqrt(p (1 - p) u^T I_x u); so arcsin(2 p - 1) changes by at most the root
of u^T I_x u. The Fisher information I_x includes that of the scale. It is below the spectral one.

References:
    Camuto, Willetts, Roberts, Holmes & Rainforth (2021), "Towards a theoretical understanding of
    the robustness of variational autoencoders", https://arxiv.org/abs/2007.07365
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Generator, Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from robust_npe.checks import ConfigError
from robust_npe.estimators import Pushforward
from robust_npe.posterior import Posterior, posterior_at
from robust_npe.random import draws_from, stream

__all__ = [
    "Encoder",
    "Gaussian",
    "as_gaussian",
    "clopper_pearson",
    "encoder_missing",
    "first_order_margins",
]

ROWS = 2**14  # that are decoded at once


class Gaussian(NamedTuple):
    """N(mean, scale scale^T) for each observation.

    Attributes:
        mean: Shape `(B, K)`.
        scale: Lower triangular `(B, K, K)`; of independent variables, their standard deviations
            `(B, K)`.
    """

    mean: Tensor
    scale: Tensor

    def sample(self, num_samples: int, generator: Generator) -> Tensor:
        """Draw reparameterised samples `(S, B, K)`."""
        shape = num_samples, *self.mean.shape
        noise = torch.randn(shape, generator=generator, dtype=self.mean.dtype).to(self.mean.device)
        if self.scale.ndim == self.mean.ndim:
            return self.mean + self.scale * noise
        return self.mean + (self.scale @ noise.unsqueeze(-1)).squeeze(-1)


def as_gaussian(q: Distribution) -> Gaussian | None:
    """Return the Gaussian that q is, for an estimator on R^K before its map onto the support of the
    prior; None if it is none."""
    q = q.base if isinstance(q, Pushforward) else q
    if isinstance(q, MultivariateNormal):
        return Gaussian(q.mean, q.scale_tril)
    if isinstance(q, Independent) and isinstance(q.base_dist, Normal):
        return Gaussian(q.mean, q.stddev)
    return None


def encoder_missing(posterior: Posterior, dim_x: int) -> str:
    """Return which posterior it takes, where this one is no Gaussian; else nothing.

    Args:
        posterior: Any posterior.
        dim_x: Number of features.
    """
    x = torch.zeros(1, dim_x)
    with torch.no_grad(), draws_from(stream(0, "trial")):
        fits = Encoder(posterior).applies(x)
    return "" if fits else "a Gaussian posterior: estimator=gaussian, gaussian_full or vae"


class Encoder:
    """A Gaussian posterior, and what it is used for.

    Args:
        posterior: The posterior; its `head` may have a decoder, as `VariationalAutoencoder` does.

    Attributes:
        decode: The map g, `(*, K)` to `(*, P)`.
        log_likelihood: log p(x|z) for x `(*, Dx)` and z `(*, K)`; None without a decoder.
        kl_weight: Weight of the KL in the decoder's training; None without one.
    """

    def __init__(self, posterior: Posterior) -> None:
        head = getattr(posterior, "head", None)
        self.posterior = posterior
        self.decode: Callable[[Tensor], Tensor] = getattr(head, "decode", lambda z: z)
        self.log_likelihood: Callable[[Tensor, Tensor], Tensor] | None = getattr(
            head, "log_likelihood", None
        )
        self.kl_weight = cast("float | None", getattr(head, "kl_weight", None))

    def __call__(self, x: Tensor) -> Gaussian:
        """Return the Gaussian at `x (B, Dx)`.

        Raises:
            ConfigError: The posterior is not Gaussian.
        """
        q = posterior_at(self.posterior, x)
        gaussian = as_gaussian(q)
        if gaussian is None:
            given = type(q.base if isinstance(q, Pushforward) else q).__name__
            raise ConfigError(
                f"the posterior is no Gaussian but a {given}: choose estimator=gaussian, "
                "gaussian_full or vae, and a defense that keeps a single network."
            )
        return gaussian

    def applies(self, x: Tensor) -> bool:
        """Tell whether the posterior at `x (B, Dx)` is Gaussian."""
        return as_gaussian(posterior_at(self.posterior, x)) is not None

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return g(mu(x)) for `x (B, Dx)`, shape `(B, P)`."""
        return self.decode(self(x).mean)

    def deviations(
        self, x_adv: Tensor, expected: Tensor, num_samples: int, generator: Generator
    ) -> Tensor:
        """Return |Delta(x~)| for draws of eta, shape `(S, B)`.

        Args:
            x_adv: Observations x~, `(B, Dx)`.
            expected: g(mu(x)), `(B, P)`.
            num_samples: Draws S for each of them.
            generator: Source of the draws.
        """
        z = self(x_adv).sample(num_samples, generator)
        size = max(1, ROWS // len(x_adv))  # decodings of all may not fit into memory
        parts = [(self.decode(part) - expected).norm(dim=-1) for part in z.split(size)]
        return torch.cat(parts)

    def jacobian(self, x: Tensor) -> Gaussian:
        """Return the Jacobians of mean `(B, K, Dx)` and scale `(B, *, Dx)` at `x (B, Dx)`, without
        graph; that of a matrix row by row."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            parts = [part.flatten(1).sum(0) for part in self(x)]  # rows are independent
            mean, scale = (torch.stack([_slope(v, x) for v in part], dim=1) for part in parts)
        return Gaussian(mean, scale)


def _slope(value: Tensor, x: Tensor) -> Tensor:
    """As `posterior.gradient`, for one of several values of the same graph."""
    if not value.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(value, x, retain_graph=True, materialize_grads=True)[0]


def first_order_margins(gaussian: Gaussian, jacobian: Gaussian, probability: Tensor) -> Tensor:
    """Return three lower bounds of the margin, to first order, `(B, 3)`: published, spectral and
    Fisher-Rao, see the top of this module; 0 where the probability is not above 1/2.

    Args:
        gaussian: The encoder's distribution at x.
        jacobian: Of its parameters, see `Encoder.jacobian`, in the units of the margin.
        probability: P(|Delta(x)| <= r), or a lower limit of it, below 1, `(B,)`.
    """
    smallest, mean, scale = _whitened(gaussian, jacobian)
    norms = (
        torch.linalg.matrix_norm(jacobian.mean) / smallest,
        torch.linalg.matrix_norm(mean, ord=2),
        torch.linalg.matrix_norm(torch.cat((mean, scale), dim=1), ord=2),
    )
    probability = probability.clamp(min=0.5)
    shift = torch.special.ndtri(probability)
    angle = torch.arcsin(2 * probability - 1)
    return torch.stack((shift, shift, angle), dim=-1).to(mean) / torch.stack(norms, dim=-1)


def _whitened(gaussian: Gaussian, jacobian: Gaussian) -> tuple[Tensor, Tensor, Tensor]:
    """Return the smallest standard deviation of any direction, `(B,)`, and W_mean and W_scale of
    I_x = W^T W, `(B, *, Dx)`: L^{-1} J, and with N = L^{-1} dL, whose Fisher information is
    |N + N^T|_F^2 / 2, its diagonal times sqrt(2) and what is below it."""
    scale = gaussian.scale
    if scale.ndim == 2:
        parts = (part / scale.unsqueeze(-1) for part in jacobian)
        mean, diagonal = parts
        return scale.amin(-1), mean, 2**0.5 * diagonal
    size = scale.shape[-1]
    columns = jacobian.scale.unflatten(1, (size, size)).flatten(2)
    relative = torch.linalg.solve_triangular(scale, columns, upper=False)
    relative = relative.reshape(len(scale), size, size, -1)
    weight = torch.ones_like(scale[0]).tril() + (2**0.5 - 1) * torch.eye(size).to(scale)
    mean = torch.linalg.solve_triangular(scale, jacobian.mean, upper=False)
    weighted = (relative * weight.unsqueeze(-1)).flatten(1, 2)
    return torch.linalg.svdvals(scale).amin(-1), mean, weighted


def clopper_pearson(successes: Tensor, trials: int, tail: float = 0.025) -> tuple[Tensor, Tensor]:
    """Return lower and upper confidence limits of probabilities, each with this error, float64.

    References:
        Clopper & Pearson (1934), https://doi.org/10.1093/biomet/26.4.404

    Args:
        successes: How many of the trials succeeded, any shape.
        trials: Number of independent trials.
        tail: Probability that the truth is below the lower limit, and that it is above the upper.
    """
    k = successes.double().cpu().numpy()
    some, fewer = np.maximum(k, 1), np.minimum(k, trials - 1)
    low = np.where(k == 0, 0.0, betaincinv(some, trials - some + 1, tail))
    high = np.where(k == trials, 1.0, betaincinv(fewer + 1, trials - fewer, 1 - tail))
    return torch.from_numpy(low), torch.from_numpy(high)
