r"""Fisher information of q(theta|x) with respect to the observation x.

I_x = E_{theta ~ q(.|x)} [s s^T] with the score s = grad_x log q(theta|x), x in data units. To
second order KL(q(.|x) || q(.|x + delta)) = 1/2 delta^T I_x delta.

Where a function offers `attached=True`, samples of theta are reparameterised and the graph is kept,
so that gradients with respect to the weights are those of I_x itself: the distribution that theta
is drawn from moves with the weights too, and leaving that path out gives a biased gradient.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from robust_npe.estimators.autoregressive import AutoregressiveFlow
from robust_npe.estimators.base import Estimator, Pushforward
from robust_npe.estimators.embeddings import Identity
from robust_npe.random import draws_from

__all__ = [
    "ScoreMethod",
    "fisher_eigenvalue",
    "fisher_information",
    "fisher_trace",
    "largest_eigenvector",
    "power_iteration",
    "rayleigh_quotient",
    "score_method",
    "scores",
]

ScoreMethod = Literal["compiled", "embedded", "differentiated"]


def scores(
    estimator: Estimator, x: Tensor, num_samples: int, generator: Generator, attached: bool
) -> Tensor:
    """Return grad_x log q(theta_s|x) for theta_s ~ q(.|x), shape `(S, B, Dx)`.

    Where samples come with weights (see `weighted_noise`), each score is multiplied by the root of
    its weight, so that the mean of s s^T is an unbiased estimate of I_x in any case.

    Args:
        estimator: The amortized posterior.
        x: Observations of shape `(B, Dx)`.
        num_samples: Samples S of theta per observation.
        generator: Source of the samples.
        attached: See the module's docstring.
    """
    method = score_method(estimator)
    if method != "differentiated":
        embedded = method == "embedded"
        with torch.set_grad_enabled(attached):
            return _compiled_scores(estimator, embedded, x, num_samples, generator)
    # one copy of x per sample, so that the gradient of the sum is the score of each sample
    copies = x.detach().expand(num_samples, *x.shape).clone().requires_grad_(True)
    with draws_from(generator), torch.set_grad_enabled(attached):
        theta = _unconstrained(estimator(x.detach())).rsample((num_samples,))
    with torch.enable_grad():
        log_prob = _unconstrained(estimator(copies)).log_prob(theta).sum()
        (score,) = torch.autograd.grad(log_prob, copies, create_graph=attached)
    return score


def _compiled_scores(
    estimator: Estimator, embedded: bool, x: Tensor, num_samples: int, generator: Generator
) -> Tensor:
    head = cast(AutoregressiveFlow, estimator.head)
    copies = x.detach().expand(num_samples, *x.shape).reshape(-1, x.shape[-1])
    if embedded:
        attached = torch.is_grad_enabled()
        with torch.enable_grad():
            context = estimator.context(copies.requires_grad_(True))
            gradient, weight = head.sampled_score(context, generator)
            (score,) = torch.autograd.grad(context, copies, gradient, create_graph=attached)
        score = score * weight.sqrt().unsqueeze(1)
    else:  # the common case needs no graph between x and its context
        gradient, weight = head.sampled_score(estimator.context(copies), generator)
        score = gradient * (weight.sqrt().unsqueeze(1) / estimator.standardize.std)
    return score.reshape(num_samples, *x.shape)


def score_method(estimator: Estimator) -> ScoreMethod:
    """Tell how `scores` works for an estimator, which decides what it costs.

    Returns:
        `compiled`; `embedded` if the head's part is compiled, and the embedding net is left to
        automatic differentiation; `differentiated` if all of it is.
    """
    head = estimator.head
    if not (isinstance(head, AutoregressiveFlow) and head.is_compiled):
        return "differentiated"
    return "compiled" if isinstance(estimator.embedding, Identity) else "embedded"


def _unconstrained(q: Distribution) -> Distribution:
    """The score does not change under a bijection of theta that does not depend on x."""
    return q.base if isinstance(q, Pushforward) else q


def fisher_trace(
    estimator: Estimator, x: Tensor, num_samples: int, generator: Generator, attached: bool = True
) -> Tensor:
    """Return unbiased Monte-Carlo estimates of tr I_x, shape `(B,)`; arguments as for `scores`."""
    score = scores(estimator, x, num_samples, generator, attached)
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
    score = scores(estimator, x, num_samples, generator, attached=False)
    return torch.einsum("sbi,sbj->bij", score, score) / num_samples


def fisher_eigenvalue(
    estimator: Estimator, x: Tensor, num_samples: int, generator: Generator, attached: bool = True
) -> Tensor:
    """Return the largest eigenvalue of the Monte-Carlo estimate of I_x, shape `(B,)`.

    An estimate from few samples is biased upwards; with one sample it is the trace. Arguments as
    for `scores`.
    """
    score = scores(estimator, x, num_samples, generator, attached)
    return rayleigh_quotient(score, largest_eigenvector(score))


@torch.no_grad()
def largest_eigenvector(score: Tensor) -> Tensor:
    """Return the leading unit eigenvector of mean_s s s^T for `score (S, B, Dx)`: `(B, Dx)`.

    It is a combination of the S scores, found from their S x S Gram matrix, so that the Dx x Dx
    matrix is never formed.
    """
    gram = torch.einsum("sbi,tbi->bst", score, score)
    weights = torch.linalg.eigh(gram).eigenvectors[..., -1]
    return _unit(torch.einsum("bs,sbi->bi", weights, score))


@torch.no_grad()
def power_iteration(score: Tensor, start: Tensor, iterations: int) -> Tensor:
    """Approach the leading eigenvector of mean_s s s^T by Fisher-vector products.

    Args:
        score: Shape `(S, B, Dx)`.
        start: Where to start, shape `(B, Dx)`.
        iterations: Number of products.

    Returns:
        Unit vectors of shape `(B, Dx)`.
    """
    vector = start
    for _ in range(iterations):
        along = torch.einsum("sbi,bi->sb", score, vector)
        vector = _unit(torch.einsum("sb,sbi->bi", along, score))
    return vector


def rayleigh_quotient(score: Tensor, vector: Tensor) -> Tensor:
    """Return v^T I v for `score (S, B, Dx)` and `vector (B, Dx)`, shape `(B,)`.

    At an eigenvector its derivative is that of the eigenvalue, with v held fixed.
    """
    return torch.einsum("sbi,bi->sb", score, vector).square().mean(0)


def _unit(vector: Tensor) -> Tensor:
    tiny = torch.finfo(vector.dtype).tiny
    return vector / torch.linalg.vector_norm(vector, dim=-1, keepdim=True).clamp(min=tiny)
