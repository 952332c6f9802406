"""Classifiers: how often they are right, how far they move, and whether gradients say so."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from robust_npe.attacks.classifier_evaluation import in_float64
from robust_npe.bayesian import CategoricalMixture, WeightEnsemble
from robust_npe.bayesian.mixture import labels, member_losses, members_of
from robust_npe.checks import require, require_positive_integer
from robust_npe.metrics.base import Context, Measurement, Metric, batched, summary_rows
from robust_npe.metrics.summary import row
from robust_npe.posterior import Posterior, posterior_at
from robust_npe.tasks.base import Task

__all__ = ["Accuracy", "ExpectedGradient", "SoftmaxRobustness", "WeightPosterior"]


class OfClassifiers(Metric):
    """Common part: nothing is measured where the posterior is no classifier."""

    needs_theta = True

    @override
    def missing(self, task: Task, estimator: Posterior, defense: str) -> str:
        return "" if getattr(estimator, "classifies", False) else "a classifier"

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        with torch.no_grad():
            applies = isinstance(context.q(context.x[:1]), CategoricalMixture)
        return self.measure(context) if applies else []

    @abstractmethod
    def measure(self, context: Context) -> list[Measurement]:
        """Return measurements of a classifier."""


class Accuracy(OfClassifiers):
    """Share of observations whose most probable class is the label, at x~."""

    name = "accuracy"

    @override
    def measure(self, context: Context) -> list[Measurement]:
        values = batched(context, lambda theta, _, x: correct(context.posterior, x, theta).double())
        return [Measurement("accuracy", summary_rows(values), values)]


class SoftmaxRobustness(OfClassifiers):
    """1 - max_k |q(k|x~) - q(k|x)|: 1 where the prediction has not moved, 0 where all of it has.

    References:
        Carbone et al. (2020), https://arxiv.org/abs/2002.04359, section 5.3; its code takes the
        softmax of probabilities once more, which confines the value to [0.853, 1] for 10 classes
    """

    name = "softmax_robustness"

    @override
    def measure(self, context: Context) -> list[Measurement]:
        if not context.attacked:
            return []

        def value(_: Tensor, x: Tensor, x_adv: Tensor) -> Tensor:
            p, q = (members_of(context.q(at)).log_probs.exp() for at in (x, x_adv))
            return 1 - (p - q).abs().amax(-1)

        values = batched(context, value)
        return [Measurement("softmax_robustness", summary_rows(values), values)]


class ExpectedGradient(OfClassifiers):
    """The expected gradient of the loss at clean x, |1/m sum_s grad_x -log softmax(f_s(x))_y| in
    L_inf, over the first m networks in random order, for several m (`level`).

    Beside its `median` and `mean` over observations: `zero`, the share that is exactly zero;
    `single`, the mean size of single gradients; `zero_single`, the share of these that is exactly
    zero, and `zero_single_float64`, the same in float64: what vanishes in one and not in the other
    is rounding.

    References:
        Carbone et al. (2020), https://arxiv.org/abs/2002.04359, figure 2

    Args:
        draws: Numbers of networks m; those above S are left out, and S is added.
        num_observations: Observations that are looked at, from the first.
    """

    name = "expected_gradient"

    def __init__(
        self, draws: Sequence[int] = (1, 10, 50, 100, 250), num_observations: int = 100
    ) -> None:
        name = "metrics.expected_gradient"
        require(all(m > 0 for m in draws), f"{name}.draws", draws, "positive integers")
        require_positive_integer(f"{name}.num_observations", num_observations)
        self.draws = list(draws)
        self.num_observations = num_observations

    @override
    def measure(self, context: Context) -> list[Measurement]:
        if context.attacked:
            return []
        x, theta = (t[: self.num_observations] for t in (context.x, context.theta))
        single = member_gradients(context.posterior, x, theta)
        double = member_gradients(in_float64(context.posterior), x.double(), theta)
        order = torch.randperm(len(single), generator=context.generator("expected gradient"))
        rows = []
        for m in sorted({m for m in self.draws if m < len(single)} | {len(single)}):
            size = single[order[:m]].mean(0).abs().amax(-1)
            found = {
                "median": size.median(),
                "mean": size.mean(),
                "zero": size.eq(0).double().mean(),
            }
            rows += [row(name, float(value), float(m)) for name, value in found.items()]
        sizes = single.abs().amax(-1)
        rows.append(row("single", float(sizes.mean())))
        rows.append(row("zero_single", _zero(sizes)))
        rows.append(row("zero_single_float64", _zero(double.abs().amax(-1))))
        return [Measurement("expected_gradient", rows)]


class WeightPosterior(OfClassifiers):
    """What a sampler told of its draws, see `robust_npe.bayesian.network.Diagnostics`, and whether
    it has `converged` by that; nothing for other inference."""

    name = "weight_posterior"

    @override
    def measure(self, context: Context) -> list[Measurement]:
        head = getattr(context.posterior, "head", None)
        if context.attacked or not isinstance(head, WeightEnsemble) or not any(head.diagnostics):
            return []
        found = head.diagnostics
        values = {**found._asdict(), "converged": float(found.converged)}
        return [Measurement("weight_posterior", [row(k, v) for k, v in values.items()])]


@torch.no_grad()
def correct(posterior: Posterior, x: Tensor, theta: Tensor) -> Tensor:
    """Tell where the most probable class is the label, bool `(B,)`."""
    return members_of(posterior_at(posterior, x)).log_probs.argmax(-1) == labels(theta)


def member_gradients(posterior: Posterior, x: Tensor, theta: Tensor) -> Tensor:
    """Return grad_x -log softmax(f_s(x))_y of each network, `(S, B, Dx)`."""
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        losses = member_losses(members_of(posterior(x)), labels(theta)).sum(-1)
        parts = [torch.autograd.grad(loss, x, retain_graph=True)[0] for loss in losses]
    return torch.stack(parts)


def _zero(sizes: Tensor) -> float:
    return float((sizes == 0).double().mean())
