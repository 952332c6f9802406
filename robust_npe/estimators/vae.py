r"""A variational autoencoder, whose encoder is an amortized Gaussian posterior.

Latent variables z ~ N(0, I) are decoded to an image, p(x|z); the encoder q(z|x) = N(mu(x),
diag(sigma(x)^2)) stands for p(z|x). Both are trained by the evidence lower bound (ELBO),

    -loss = E_{z ~ q(.|x)} log p(x|z) - kl_weight KL(q(.|x) || N(0, I)).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence
from torch.nn.functional import softplus

from robust_npe.checks import require, require_positive
from robust_npe.estimators.embeddings import mlp
from robust_npe.estimators.gaussian import DiagonalGaussian

__all__ = ["VariationalAutoencoder", "log_normalizer", "pixel_mean"]


class VariationalAutoencoder(DiagonalGaussian):
    """Encoder of a (beta-)VAE, a diagonal Gaussian that is trained together with its decoder.

    Pixels x in [0, 1] are independent given z.

    References:
        Kingma & Welling (2014), "Auto-encoding variational Bayes", https://arxiv.org/abs/1312.6114

        Higgins et al. (2017), "beta-VAE", https://openreview.net/forum?id=Sy2fzU9gl

        Loaiza-Ganem & Cunningham (2019), "The continuous Bernoulli: fixing a pervasive error in
        variational autoencoders", https://arxiv.org/abs/1907.06845

    Args:
        dim_theta: Number of latent variables D.
        dim_context: Number of features of the context.
        dim_x: Number of pixels Dx.
        hidden: Widths of the encoder's hidden layers.
        decoder: Widths of the decoder's hidden layers.
        kl_weight: Weight of the KL in the ELBO, positive: the beta of a beta-VAE.
        likelihood: Distribution of a pixel given z: `continuous_bernoulli`; or `bernoulli`, the
            usual cross-entropy, which is no density of grey values, but does not reward sharpness.
    """

    name = "vae"
    models_x = True

    def __init__(
        self,
        dim_theta: int,
        dim_context: int,
        dim_x: int,
        hidden: Sequence[int] = (256, 256),
        decoder: Sequence[int] = (256, 256),
        kl_weight: float = 1.0,
        likelihood: Literal["continuous_bernoulli", "bernoulli"] = "continuous_bernoulli",
    ) -> None:
        require_positive("estimator.kl_weight", kl_weight)
        require(likelihood in PIXELS, "estimator.likelihood", likelihood, f"one of {[*PIXELS]}")
        super().__init__(dim_theta, dim_context, hidden)
        self.kl_weight = kl_weight
        self.likelihood = likelihood
        self.decoder = mlp(dim_theta, decoder, dim_x)
        changed = {"kl_weight": f"{kl_weight:g}"} if kl_weight != 1 else {}
        changed |= {"likelihood": likelihood} if likelihood != "continuous_bernoulli" else {}
        if changed:  # tables have no other column for them
            self.name = f"vae({','.join(f'{key}={value}' for key, value in changed.items())})"

    def loss(self, q: Distribution, x: Tensor) -> Tensor:
        """Return the mean of the negative ELBO, with one draw of z for each row from torch's global
        stream, see `Head`.

        Args:
            q: What `forward` returned for the observations.
            x: The observations, `(B, Dx)`.
        """
        prior = Normal(torch.zeros_like(q.mean), 1.0, validate_args=False)
        kl = kl_divergence(q, Independent(prior, 1, validate_args=False))
        return (self.kl_weight * kl - self.log_likelihood(x, q.rsample())).mean()

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x|z) for `x (*, Dx)` and `z (*, D)`, broadcast, shape `(*,)`."""
        logits = self.decoder(z)
        return (x * logits - PIXELS[self.likelihood][0](logits)).sum(-1)

    def decode(self, z: Tensor) -> Tensor:
        """Return E[x|z], the reconstruction from `z (*, D)`, shape `(*, Dx)`."""
        return PIXELS[self.likelihood][1](self.decoder(z))


def log_normalizer(logits: Tensor) -> Tensor:
    """Return A with the density exp(x logit - A) of a continuous Bernoulli variable x in [0, 1],
    log((e^logit - 1) / logit). Several times faster than torch's, and exact for any logit."""
    size = logits.abs()
    small = size < 0.01
    safe = torch.where(small, 1.0, size)  # gradients of what is not taken must be finite
    rest = safe / 2 + (-torch.expm1(-safe) / safe).log()
    return logits / 2 + torch.where(small, logits.square() / 24, rest)


def pixel_mean(logits: Tensor) -> Tensor:
    """Return the mean of continuous Bernoulli variables, 1/2 + coth(logit / 2) / 2 - 1 / logit."""
    small = logits.abs() < 0.1
    safe = torch.where(small, 1.0, logits)
    return 0.5 + torch.where(small, logits / 12, 0.5 / torch.tanh(safe / 2) - 1 / safe)


PIXELS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "continuous_bernoulli": (log_normalizer, pixel_mean),
    "bernoulli": (softplus, torch.sigmoid),
}
"""Log normalizer and mean of a pixel's distribution, by logit."""
