r"""Divergences between distributions over theta."""

from __future__ import annotations

from torch import Generator, Tensor
from torch.distributions import Distribution, kl_divergence

from robust_npe.antithetic import antithetic
from robust_npe.random import draws_from

__all__ = ["has_closed_form_kl", "kl"]


def has_closed_form_kl(p: Distribution, q: Distribution) -> bool:
    """Tell whether KL(p || q) is known in closed form for this pair."""
    try:
        kl_divergence(p, q)
    except NotImplementedError:
        return False
    return True


def kl(p: Distribution, q: Distribution, num_samples: int, generator: Generator) -> Tensor:
    r"""Return KL(p || q) for each element of the batch.

    In closed form where one exists (Gaussians), else the Monte-Carlo estimate
    mean_s log p(theta_s) - log q(theta_s), theta_s ~ p in antithetic pairs where p offers them,
    which is unbiased and may come out slightly negative. Gradients flow through both
    distributions.

    Args:
        p: Distribution with batch shape `(B,)`.
        q: Distribution with the same batch and event shape.
        num_samples: Number of Monte-Carlo samples; unused by the closed form.
        generator: Source of the samples.

    Returns:
        Divergences of shape `(B,)`, in nats.
    """
    try:
        return kl_divergence(p, q)
    except NotImplementedError:
        with draws_from(generator):
            pairs = antithetic(p)
            theta = (pairs.rsample if p.has_rsample else pairs.sample)((num_samples,))
        return (p.log_prob(theta) - q.log_prob(theta)).mean(0)
