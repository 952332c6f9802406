r"""Fisher information of q(theta|x) with respect to the observation x.

I_x = E_{theta ~ q(.|x)} [s s^T] with the score s = grad_x log q(theta|x), x in data units. To
second order KL(q(.|x) || q(.|x + delta)) = 1/2 delta^T I_x delta.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from robust_npe.estimators.base import Estimator
from robust_npe.random import draws_from

__all__ = ["fisher_information", "fisher_trace"]


def _scores(
    estimator: Estimator, x: Tensor, num_samples: int, generator: Generator, attached: bool
) -> Tensor:
    """Scores of samples from q(.|x), shape `(S, B, Dx)`."""
    with draws_from(generator), torch.set_grad_enabled(attached):
        theta = estimator(x.detach()).rsample((num_samples,))
    # one copy of x per sample, so that the gradient of the sum is the score of each sample
    copies = x.detach().expand(num_samples, *x.shape).clone().requires_grad_(True)
    with torch.enable_grad():
        log_prob = estimator(copies).log_prob(theta).sum()
        (score,) = torch.autograd.grad(log_prob, copies, create_graph=attached)
    return score


def fisher_trace(
    estimator: Estimator, x: Tensor, num_samples: int, generator: Generator, attached: bool = True
) -> Tensor:
    """Return Monte-Carlo estimates of tr I_x, shape `(B,)`.

    Args:
        estimator: The amortized posterior.
        x: Observations of shape `(B, Dx)`.
        num_samples: Samples of theta per observation.
        generator: Source of the samples.
        attached: Keep the graph, with theta reparameterised, so that the gradient with respect
            to the weights is that of the trace itself: the distribution that theta is drawn from
            moves with the weights, and leaving that path out gives a biased gradient.
    """
    score = _scores(estimator, x, num_samples, generator, attached)
    return score.square().sum(-1).mean(0)


def fisher_information(
    estimator: Estimator, x: Tensor, num_samples: int, generator: Generator
) -> Tensor:
    """Return Monte-Carlo estimates of I_x, shape `(B, Dx, Dx)`, without graph.

    Args:
        estimator: The amortized posterior.
        x: Observations of shape `(B, Dx)`.
        num_samples: Samples of theta per observation.
        generator: Source of the samples.
    """
    score = _scores(estimator, x, num_samples, generator, attached=False)
    return torch.einsum("sbi,sbj->bij", score, score) / num_samples
