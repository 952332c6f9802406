"""Mean-field variational inference over weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Generator, Tensor
from torch.nn.functional import softplus
from typing_extensions import override

from robust_npe.bayesian.inference import Inference, InferenceState, Weights
from robust_npe.bayesian.optimising import Descent, at_least, cross_entropies
from robust_npe.checks import require_positive, require_positive_integer, require_whole
from robust_npe.states import adam

if TYPE_CHECKING:
    from robust_npe.bayesian.network import WeightEnsemble

__all__ = ["MeanFieldVI", "gaussian_kl"]

START = 0.01  # standard deviation that training starts from, relative to the prior's


class MeanFieldVI(Inference):
    r"""Draws from the Gaussian with independent weights N(mu, sigma^2) that maximises

        E_q log p(y|x, w) - KL(q || prior),

    estimated from minibatches: the mean of the cross-entropies plus KL / N. Noise is drawn for the
    activations of each pair, not for weights, which has less variance (local reparameterisation).

    References:
        Blundell, Cornebise, Kavukcuoglu & Wierstra (2015), "Weight uncertainty in neural networks",
        https://arxiv.org/abs/1505.05424

        Kingma, Salimans & Welling (2015), "Variational dropout and the local reparameterization
        trick", https://arxiv.org/abs/1506.02557

    Args:
        draws: Number of networks S.
        epochs: How often the training pairs are seen.
        batch_size: Pairs per step.
        learning_rate: Of the first step of Adam; it falls to zero along half a cosine.
        min_steps: Few pairs are seen more often, until there are so many steps.
        kl: Weight of the KL: `per_dataset`, as it should be; `per_batch`, the whole KL for every
            minibatch, as published: that is the posterior of as many pairs as a minibatch has.
        start: Means and standard deviations to start from: `network`, those of a fresh network, and
            small; `published`: N(0, 1) and softplus(N(0, 1)).
    """

    name = "vi"

    def __init__(
        self,
        draws: int = 25,
        epochs: int = 10,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        min_steps: int = 0,
        kl: Literal["per_dataset", "per_batch"] = "per_dataset",
        start: Literal["network", "published"] = "network",
    ) -> None:
        for key, value in {"draws": draws, "epochs": epochs, "batch_size": batch_size}.items():
            require_positive_integer(f"inference.{key}", value)
        require_positive("inference.learning_rate", learning_rate)
        require_whole("inference.min_steps", min_steps)
        self.draws = draws
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.min_steps = min_steps
        self.kl = kl
        self.start = start
        if (kl, start) == ("per_batch", "published"):
            self.name = "vi_published"

    @property
    @override
    def num_draws(self) -> int:
        return self.draws

    @override
    def begin(
        self, network: WeightEnsemble, x: Tensor, y: Tensor, generator: Generator
    ) -> InferenceState:
        means, raw = self._start(network, generator)
        count = len(x) if self.kl == "per_dataset" else self.batch_size

        def loss(index: Tensor) -> Tensor:
            stds = [softplus(r) for r in raw]
            logits = noisy_logits(network, x[index], means, stds, generator)
            kl = gaussian_kl(means, stds, network.prior_stds)
            return cross_entropies(logits, y[index]).sum() + kl / count

        optimizer = adam([*means, *raw], self.learning_rate)
        epochs = at_least(self.epochs, self.min_steps, len(x), self.batch_size)
        descent = Descent(loss, len(x), optimizer, epochs, self.batch_size, generator)

        def finish() -> Mapping[str, Any]:
            stds = [softplus(r) for r in raw]
            network.assign(
                [
                    m + s * torch.randn(self.draws, *m.shape[1:], generator=generator).to(m)
                    for m, s in zip(means, stds, strict=True)
                ]
            )
            median = float(torch.cat([s.flatten() for s in stds]).median())
            return {"train_loss": descent.train_loss, "median_std": median}

        return InferenceState([descent], finish, generator, [*means, *raw])

    def _start(self, network: WeightEnsemble, generator: Generator) -> tuple[Weights, Weights]:
        """Return means, and what softplus makes the standard deviations of."""
        if self.start == "published":
            raw, means = (
                [torch.randn(1, *w.shape[1:], generator=generator).to(w) for w in network.weights]
                for _ in range(2)
            )
            return means, raw
        means = network.initial(1, generator)
        stds = [
            START * torch.ones_like(m) * s for m, s in zip(means, network.prior_stds, strict=True)
        ]
        return means, [torch.log(torch.expm1(s)) for s in stds]


def noisy_logits(
    network: WeightEnsemble, x: Tensor, means: Weights, stds: Weights, generator: Generator
) -> Tensor:
    """Return outputs `(1, B, K)` for weights that are drawn for each row of `x (B, C)` anew: the
    pre-activations of a layer are Gaussian given its inputs."""
    h = x.unsqueeze(0)
    for i in range(0, len(means), 2):
        h = h if i == 0 else network.activation(h)
        mean = torch.matmul(h, means[i]) + means[i + 1]
        variance = torch.matmul(h.square(), stds[i].square()) + stds[i + 1].square()
        h = mean + variance.sqrt() * torch.randn(mean.shape, generator=generator).to(mean)
    return h


def gaussian_kl(
    means: Sequence[Tensor], stds: Sequence[Tensor], prior_stds: Sequence[float]
) -> Tensor:
    """Return KL(N(mean, std^2) || N(0, prior_std^2)), the sum over all weights, a scalar."""
    total = torch.zeros((), device=means[0].device)
    for mean, std, prior in zip(means, stds, prior_stds, strict=True):
        ratio = (std / prior).square()
        total = total + 0.5 * (ratio + (mean / prior).square() - 1 - ratio.log()).sum()
    return total
