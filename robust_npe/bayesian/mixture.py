"""What several classifiers predict together."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, register_kl

from robust_npe.checks import ConfigError

__all__ = ["CategoricalMixture", "labels", "margins", "member_losses", "members_of"]


class CategoricalMixture(Independent):
    r"""q(k) = 1/S sum_s softmax(f_s)_k, the even mixture of the predictions of S networks.

    Event shape `(1,)`, as the labels of `robust_npe.tasks.Classification`. Logarithms are taken of
    no probability, so that all of them are finite however sure the networks are.

    Args:
        logits: f_s of each member, `(S, B, K)`.

    Attributes:
        logits: As given.
        members: Log probabilities of each member, `(S, B, K)`.
        log_probs: Those of the mixture, `(B, K)`.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.members = logits.log_softmax(-1)
        self.log_probs = self.members.logsumexp(0) - math.log(len(logits))
        mixture = Categorical(logits=self.log_probs.unsqueeze(-2), validate_args=False)
        super().__init__(mixture, 1, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Independent:
        """Return the mixture alone, without its members, for another batch shape."""
        return Independent(self.base_dist, 1).expand(batch_shape)


@register_kl(CategoricalMixture, CategoricalMixture)
def _kl_mixtures(p: CategoricalMixture, q: CategoricalMixture) -> Tensor:
    """Finite, where torch's is infinite as soon as a probability of q rounds to 0."""
    return (p.log_probs.exp() * (p.log_probs - q.log_probs)).sum(-1)


def members_of(q: Any) -> CategoricalMixture:
    """Return q.

    Raises:
        ConfigError: It is not the prediction of classifiers.
    """
    if isinstance(q, CategoricalMixture):
        return q
    raise ConfigError(
        f"posterior(x) is a {type(q).__name__}: this needs a classifier, as of "
        "estimator=classifier/mlp."
    )


def labels(theta: Tensor) -> Tensor:
    """Return labels `(B, 1)` or `(B,)` as indices `(B,)`."""
    return torch.as_tensor(theta).reshape(len(theta)).long()


def member_losses(q: CategoricalMixture, y: Tensor) -> Tensor:
    """Return -log softmax(f_s)_y of each member for labels `(B,)`, shape `(S, B)`."""
    index = y.expand(len(q.members), -1).unsqueeze(-1)
    return -q.members.gather(-1, index).squeeze(-1)


def margins(scores: Tensor, y: Tensor) -> Tensor:
    """Return the largest score of another class minus that of the label.

    Args:
        scores: Shape `(*, B, K)`.
        y: Labels `(B,)`.

    Returns:
        Shape `(*, B)`.
    """
    index = y.expand(scores.shape[:-1]).unsqueeze(-1)
    own = scores.gather(-1, index).squeeze(-1)
    return scores.scatter(-1, index, -torch.inf).amax(-1) - own
