"""Bayesian neural posterior estimation: a posterior over the weights of the density estimator.

What is used is the mixture of the posteriors that draws of the weights give, q(theta|x) =
1/S sum_s q(theta|x, w_s), as for an ensemble, but from a single training.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus
from typing_extensions import override

from robust_npe.bayesian.vi import gaussian_kl
from robust_npe.checks import (
    require,
    require_not_negative,
    require_positive,
    require_positive_integer,
)
from robust_npe.defenses.base import Batch, Defense, ready
from robust_npe.defenses.ensemble import EnsemblePosterior
from robust_npe.estimators import Estimator
from robust_npe.posterior import Posterior
from robust_npe.random import child, stream
from robust_npe.tasks.base import Task

__all__ = ["SWAGWeights", "VIWeights"]

OWN = "weight_posterior"  # submodule of the estimator that holds what is stored with its weights


class _Gaussian(nn.Module):
    """What is known of each weight beside its mean, in the order of the estimator's parameters."""

    def __init__(self, estimator: Estimator, start: float, trained: bool, parts: int) -> None:
        super().__init__()
        weights = list(estimator.parameters())
        self.parts = nn.ModuleList(
            nn.ParameterList(
                nn.Parameter(torch.full_like(w, start), requires_grad=trained) for w in weights
            )
            for _ in range(parts)
        )


class _OverWeights(Defense):
    """Common part: N(weights of the estimator, diagonal), of which networks are drawn once, by the
    same normal numbers for every estimator."""

    draws: int

    def _check_draws(self) -> None:
        require_positive_integer("defense.draws", self.draws)

    @override
    def deploy(self, members: Sequence[Estimator], task: Task) -> Posterior:
        generator = stream(0, "weights", self.name)
        drawn = []
        for _ in range(self.draws):
            member = copy.deepcopy(members[0])
            stds = self._stds(member)
            del member._modules[OWN]
            with torch.no_grad():
                for w, std in zip(member.parameters(), stds, strict=True):
                    w.add_(std * torch.randn(w.shape, generator=generator).to(w))
            drawn.append(member)
        return EnsemblePosterior(drawn)

    @abstractmethod
    def _stds(self, estimator: Estimator) -> list[Tensor]:
        """Return the standard deviation of each weight."""


class SWAGWeights(_OverWeights):
    """Draws of the weights from a Gaussian around those that training keeps, as wide as Adam's
    steps scatter them: the variance along the trajectory, with exponential weights.

    References:
        Maddox et al. (2019), "A simple baseline for Bayesian uncertainty in deep learning",
        https://arxiv.org/abs/1902.02476: the diagonal variant, around the moving average of weights

    Args:
        draws: Number of networks.
        decay: Of the moving variance, per step.
        scale: Factor on the standard deviations.
    """

    name = "swag"

    def __init__(self, draws: int = 10, decay: float = 0.995, scale: float = 1.0) -> None:
        require(0 < decay < 1, "defense.decay", decay, "between 0 and 1")
        require_not_negative("defense.scale", scale)
        self.draws = draws
        self.decay = decay
        self.scale = scale
        self._check_draws()

    @override
    def prepare(self, estimator: Estimator) -> Estimator:
        estimator.add_module(OWN, _Gaussian(estimator, 0.0, trained=False, parts=2))
        return estimator

    @override
    def setup(self, estimator: Estimator, theta: Tensor, x: Tensor) -> None:
        means, variances = _parts(estimator)
        for w, mean, variance in zip(_weights(estimator), means, variances, strict=True):
            mean.data.copy_(w.data)
            variance.data.zero_()

    @override
    def loss(self, estimator: Estimator, batch: Batch, generator: Generator) -> Tensor:
        return estimator.loss(batch.theta, batch.x)

    @override
    def constrain(self, estimator: Estimator) -> None:
        means, variances = _parts(estimator)
        rest = 1 - self.decay
        for w, mean, variance in zip(_weights(estimator), means, variances, strict=True):
            step = w - mean
            mean.add_(rest * step)
            variance.copy_(self.decay * (variance + rest * step.square()))

    @override
    def _stds(self, estimator: Estimator) -> list[Tensor]:
        return [self.scale * v.detach().clamp(min=0).sqrt() for v in _parts(estimator)[1]]


class VIWeights(_OverWeights):
    """Mean-field variational inference: -E log q(theta|x, w) + beta KL(N(mu, sigma^2) ||
    N(0, prior_std^2)) / N, with one draw of all weights w = mu + sigma epsilon in each step.

    References:
        Blundell et al. (2015), "Weight uncertainty in neural networks",
        https://arxiv.org/abs/1505.05424

    Args:
        draws: Number of networks that are drawn in the end.
        beta: Weight of the KL; 1 is Bayes' rule, less a "cold" posterior.
        prior_std: Standard deviation of the prior over weights.
        start_std: Standard deviation that training starts from.
    """

    name = "vi"

    def __init__(
        self,
        draws: int = 10,
        beta: float = 0.1,
        prior_std: float = 1.0,
        start_std: float = 0.001,
    ) -> None:
        require_not_negative("beta", beta)
        for key, value in {"prior_std": prior_std, "start_std": start_std}.items():
            require_positive(f"defense.{key}", value)
        self.draws = draws
        self.beta: float = beta
        self.prior_std = prior_std
        self.start_std = start_std
        self._count: int | None = None
        self._check_draws()

    @override
    def prepare(self, estimator: Estimator) -> Estimator:
        raw = float(torch.tensor(self.start_std).expm1().log())
        estimator.add_module(OWN, _Gaussian(estimator, raw, trained=True, parts=1))
        return estimator

    @override
    def setup(self, estimator: Estimator, theta: Tensor, x: Tensor) -> None:
        self._count = len(x)

    @override
    def loss(self, estimator: Estimator, batch: Batch, generator: Generator) -> Tensor:
        noise, stds = child(generator), self._stds(estimator)
        pairs = zip(_named(estimator), stds, strict=True)
        drawn = {
            f"estimator.{name}": w + std * torch.randn(w.shape, generator=noise).to(w)
            for (name, w), std in pairs
        }
        nll = functional_call(_Loss(estimator), drawn, (batch.theta, batch.x))
        return nll + self.beta / ready(self._count) * self._kl(_weights(estimator), stds)

    def _kl(self, means: list[nn.Parameter], stds: list[Tensor]) -> Tensor:
        return gaussian_kl(means, stds, [self.prior_std] * len(means))

    @override
    def _stds(self, estimator: Estimator) -> list[Tensor]:
        return [softplus(raw) for raw in _parts(estimator)[0]]


class _Loss(nn.Module):
    """The loss of an estimator as a forward pass, so that its weights can be exchanged."""

    def __init__(self, estimator: Estimator) -> None:
        super().__init__()
        self.estimator = estimator

    def forward(self, theta: Tensor, x: Tensor) -> Tensor:
        return self.estimator.loss(theta, x)


def _parts(estimator: Estimator) -> list[list[nn.Parameter]]:
    return [list(part.parameters()) for part in estimator.get_submodule(OWN).parts]  # type: ignore[union-attr]


def _named(estimator: Estimator) -> list[tuple[str, nn.Parameter]]:
    return [(n, p) for n, p in estimator.named_parameters() if not n.startswith(f"{OWN}.")]


def _weights(estimator: Estimator) -> list[nn.Parameter]:
    return [p for _, p in _named(estimator)]
