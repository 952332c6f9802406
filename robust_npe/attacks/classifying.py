"""Objectives against classifiers that average over networks.

q(k|x) = 1/S sum_s softmax(f_s(x))_k, see `robust_npe.bayesian.CategoricalMixture`; y is the label.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy
from typing_extensions import override

from robust_npe.attacks.objectives import Climb, Objective, Sampled
from robust_npe.bayesian.mixture import (
    CategoricalMixture,
    labels,
    margins,
    member_losses,
    members_of,
)
from robust_npe.checks import require, require_positive_integer
from robust_npe.posterior import Posterior, posterior_at
from robust_npe.random import child

__all__ = [
    "ComponentNLL",
    "LogitMargin",
    "OfMembers",
    "PredictiveMargin",
    "PublishedSoftmax",
]


class OfMembers(Objective):
    """Common part of objectives against the label y.

    Args:
        draws: Networks behind each step, drawn anew without replacement (expectation over
            randomness); scores have all of them. None: always all, those that predict.
    """

    needs_theta = True

    def __init__(self, draws: int | None = None) -> None:
        require_positive_integer("objective.draws", draws, or_null=True)
        self.draws = draws

    @override
    def check_posterior(self, posterior: Posterior, x: Tensor) -> None:
        with torch.no_grad():
            members_of(posterior(x[:1]))

    @override
    def __call__(
        self, posterior: Posterior, x: Tensor, theta: Tensor | None, generator: Generator
    ) -> Climb:
        require(theta is not None, "theta", theta, f"the labels, which objective {self.name} needs")
        assert theta is not None
        y, stepping = labels(theta), child(generator)

        def score(x_adv: Tensor) -> Tensor:
            return self.value(members_of(posterior_at(posterior, x_adv)), y)

        def step(x_adv: Tensor) -> Tensor:
            logits = members_of(posterior_at(posterior, x_adv)).logits
            chosen = torch.randperm(len(logits), generator=stepping)[: self.draws]
            return self.value(CategoricalMixture(logits[chosen]), y)

        return score if self.draws is None else Sampled(score, step)

    @abstractmethod
    def value(self, q: CategoricalMixture, y: Tensor) -> Tensor:
        """Return what increases, `(B,)`, for labels `(B,)`."""


class ComponentNLL(OfMembers):
    """1/S sum_s -log softmax(f_s(x~))_y: the expected loss under the posterior over weights, whose
    gradient vanishes in the limit that the paper studies.

    References:
        Carbone et al. (2020), https://arxiv.org/abs/2002.04359, equation (2)

    Args:
        draws: See `OfMembers`.
    """

    name = "component_nll"

    @override
    def value(self, q: CategoricalMixture, y: Tensor) -> Tensor:
        return member_losses(q, y).mean(0)


class LogitMargin(OfMembers):
    """Largest mean logit of another class minus that of y: nothing saturates on its way.

    References:
        Carlini & Wagner (2017), "Towards evaluating the robustness of neural networks",
        https://arxiv.org/abs/1608.04644, for one network

    Args:
        draws: See `OfMembers`.
    """

    name = "logit_margin"

    @override
    def value(self, q: CategoricalMixture, y: Tensor) -> Tensor:
        return margins(q.logits.mean(0), y)


class PredictiveMargin(OfMembers):
    """log q(k|x~) - log q(y|x~) for the best other class k: positive exactly where the prediction
    is wrong, so that it decides between attacks.

    Args:
        draws: See `OfMembers`.
    """

    name = "predictive_margin"

    @override
    def value(self, q: CategoricalMixture, y: Tensor) -> Tensor:
        return margins(q.log_probs, y)


class PublishedSoftmax(OfMembers):
    """-log softmax(q(.|x~))_y: the cross-entropy of probabilities that are taken for logits.

    For reproduction only. That is what the research code of https://arxiv.org/abs/2002.04359
    computes, not what its text says; the loss is confined to an interval of length 1.

    Args:
        draws: See `OfMembers`.
    """

    name = "published_softmax"

    @override
    def value(self, q: CategoricalMixture, y: Tensor) -> Tensor:
        return cross_entropy(q.members.exp().mean(0), y, reduction="none")
