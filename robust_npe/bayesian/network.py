"""Many networks of one architecture at once: their weights are stacked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import leaky_relu, relu

from robust_npe.bayesian.inference import Inference, Weights
from robust_npe.bayesian.mixture import CategoricalMixture
from robust_npe.checks import require, require_positive, require_widths
from robust_npe.estimators.interfaces import Head

__all__ = ["MAX_RHAT", "Diagnostics", "WeightEnsemble"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "leaky_relu": leaky_relu,
    "relu": relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
MAX_RHAT = 1.1  # of predictive logits, far from strict; parameters do worse
MAX_DIVERGENT = 0.01  # share of trajectories


class Diagnostics(NamedTuple):
    """How a sampler did; all 0 where there was none.

    Attributes:
        acceptance: Mean probability of acceptance.
        rhat: 95 % quantile of split R-hat of predictive log odds over some training inputs.
        effective: Median over these of the number of independent draws that are worth as much.
        divergent: Share of trajectories whose energy error was above 1000 nats or not finite.
        moved: |w_last - w_first| / |w_first|, mean over chains: 1.4 for independent draws.
        step_size: Mean over chains, in units of the prior's standard deviation.
    """

    acceptance: float = 0.0
    rhat: float = 0.0
    effective: float = 0.0
    divergent: float = 0.0
    moved: float = 0.0
    step_size: float = 0.0

    @property
    def converged(self) -> bool:
        """Whether the draws may be taken for those of the posterior; true without sampler."""
        return self.rhat <= MAX_RHAT and self.divergent <= MAX_DIVERGENT


class WeightEnsemble(Head):
    r"""q(label|x) = 1/S sum_s softmax(f(x, w_s)) for weights w_s of fully connected networks.

    With draws w_s from the posterior over weights this is the predictive distribution of a Bayesian
    neural network; what `inference` is decides what they are.

    References:
        Carbone, Wicker, Laurenti, Patane, Bortolussi & Sanguinetti (2020), "Robustness of Bayesian
        neural networks to gradient-based attacks", https://arxiv.org/abs/2002.04359

    Args:
        dim_theta: Has to be 1, the label.
        dim_context: Number of inputs.
        num_classes: Number of outputs K.
        inference: How the weights are made.
        hidden: Widths of the hidden layers.
        activation: After each of them.
        prior: Standard deviations of the Gaussian prior over weights. `fan_in`: sqrt(2 / inputs) of
            the layer, and 1 for biases; `standard`: 1 for all (published), with which outputs grow
            as the widths do, and cross-entropies saturate.
        prior_scale: Factor on these standard deviations.

    Attributes:
        prior_stds: Standard deviation of each tensor of `weights`.
    """

    name = "mlp"
    classifies = True
    _diagnostics: Tensor

    def __init__(
        self,
        dim_theta: int,
        dim_context: int,
        num_classes: int,
        inference: Inference,
        hidden: Sequence[int] = (256, 256),
        activation: Literal["leaky_relu", "relu", "tanh", "sigmoid"] = "leaky_relu",
        prior: Literal["fan_in", "standard"] = "fan_in",
        prior_scale: float = 1.0,
    ) -> None:
        super().__init__()
        require_widths("estimator.hidden", hidden)
        require_positive("estimator.prior_scale", prior_scale)
        require(activation in ACTIVATIONS, "estimator.activation", activation, str([*ACTIVATIONS]))
        require(prior in ("fan_in", "standard"), "estimator.prior", prior, "fan_in or standard")
        self.inference = inference
        self.activation = ACTIVATIONS[activation]
        sizes = [dim_context, *hidden, num_classes]
        self.shapes = [shape for a, b in pairwise(sizes) for shape in ((a, b), (1, b))]
        self.prior_stds = [
            prior_scale * ((2 / shape[0]) ** 0.5 if prior == "fan_in" and i % 2 == 0 else 1.0)
            for i, shape in enumerate(self.shapes)
        ]
        draws = inference.num_draws
        self.weights = nn.ParameterList(torch.zeros(draws, *shape) for shape in self.shapes)
        self.register_buffer("_diagnostics", torch.zeros(len(Diagnostics._fields)))
        with torch.no_grad():
            for kept, fresh in zip(self.weights, self.initial(draws), strict=True):
                kept.copy_(fresh)
        self.name = self._named(hidden, activation, prior, prior_scale)

    def _named(self, hidden: Sequence[int], *settings: str | float) -> str:
        """Tables have no other column for what distinguishes these networks."""
        usual = ("leaky_relu", "fan_in", 1.0)
        widths = "x".join(map(str, hidden)) or "linear"
        other = [str(s) for s, default in zip(settings, usual, strict=True) if s != default]
        return f"{self.inference.name}({','.join([widths, *other])})"

    @property
    def diagnostics(self) -> Diagnostics:
        """How the sampler did."""
        return Diagnostics(*self._diagnostics.tolist())

    @property
    def remark(self) -> str:
        """What tables must say beside the name."""
        return "" if self.diagnostics.converged else "(not converged)"

    def initial(self, draws: int, generator: Generator | None = None) -> Weights:
        """Return weights to start training from, uniform with the standard deviation 1 / sqrt(3
        inputs) (He et al., as `torch.nn.Linear`)."""
        found = []
        for i, own in enumerate(self.weights):
            bound = self.shapes[i - i % 2][0] ** -0.5
            uniform = torch.rand(draws, *self.shapes[i], generator=generator)
            found.append((bound * (2 * uniform - 1)).to(own))
        return found

    def prior_draws(self, draws: int, generator: Generator) -> Weights:
        """Return weights of this number of networks from the prior."""
        return [
            (std * torch.randn(draws, *own.shape[1:], generator=generator)).to(own)
            for std, own in zip(self.prior_stds, self.weights, strict=True)
        ]

    @torch.no_grad()
    def assign(self, weights: Weights, diagnostics: Diagnostics | None = None) -> None:
        """Take over weights of S networks, and how they were found."""
        for own, given in zip(self.weights, weights, strict=True):
            own.copy_(given)
        self._diagnostics.copy_(torch.tensor(diagnostics or Diagnostics()).nan_to_num(torch.inf))

    def logits(self, x: Tensor, weights: Weights | None = None) -> Tensor:
        """Return the outputs of all networks.

        Args:
            x: Inputs, `(B, C)`.
            weights: Of other S networks of this architecture; None for the own ones.

        Returns:
            Shape `(S, B, K)`.
        """
        layers = list(self.weights) if weights is None else weights
        h = x
        for i in range(0, len(layers), 2):
            h = h if i == 0 else self.activation(h)
            h = torch.matmul(h, layers[i]) + layers[i + 1]
        return h

    def forward(self, context: Tensor) -> CategoricalMixture:
        """Return the predictive distribution for `context (B, C)`."""
        return CategoricalMixture(self.logits(context))
