r"""Regularisation by the Fisher information of q(theta|x) with respect to x."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from typing_extensions import override

from robust_npe.checks import require, require_positive_integer
from robust_npe.defenses.penalty import Penalized, PenaltyGradient
from robust_npe.estimators import Estimator
from robust_npe.estimators.interfaces import ScoreMethod
from robust_npe.fisher import (
    fisher_trace,
    largest_eigenvector,
    power_iteration,
    rayleigh_quotient,
    scores,
)

__all__ = ["FIM", "FIMEigenvalue"]


class FIM(Penalized):
    r"""Mean of -log q(theta|x) + beta tr I_x; arguments as for `Penalized`.

    The gradient of the penalty is the exact one of a Monte-Carlo estimate of the trace: samples of
    theta are reparameterised, not detached. Its mean is the gradient of tr I_x for MAF; for flows
    whose scores jump it is close to it only, see `robust_npe.fisher`. `gradient=exact` is the
    published one: 5 samples on the whole batch at every step, smoothed by a moving average.
    `gradient=fast` takes one sample on most of the usual batch at every other step, and holds the
    gradient in between; it counts on compiled scores, which MAF and NSF offer on a CPU. With an
    embedding net, which makes each observation dearer, it takes fewer of them, at every step. For
    mixtures and Gaussians it takes half of the batch at every step, for flows without kernels a
    quarter at every other one, for FMPE, whose gradient costs tens of steps, an eighth at every
    eighth. With `fast`, gradients far larger than usual are clipped. See benchmarks/README.md for
    what that costs in likelihood.

    References:
        Gloeckler, Deistler & Macke (2023), "Adversarial robustness of amortized Bayesian
        inference", https://arxiv.org/abs/2305.14984
    """

    name = "fim"
    gradients: ClassVar[dict[str, PenaltyGradient]] = {
        "fast": PenaltyGradient(num_samples=1, rows=320, every=2, weight=1.0, limit=10.0),
        "exact": PenaltyGradient(num_samples=5, rows=None, every=1, weight=0.85),
    }
    variants: ClassVar[dict[tuple[str, ScoreMethod], PenaltyGradient]] = {
        ("fast", "embedded"): PenaltyGradient(
            num_samples=1, rows=80, every=1, weight=1.0, limit=10.0
        ),
        ("fast", "differentiated"): PenaltyGradient(
            num_samples=1, rows=256, every=1, weight=1.0, limit=10.0
        ),
        ("fast", "inverted"): PenaltyGradient(
            num_samples=1, rows=128, every=2, weight=1.0, limit=10.0
        ),
        ("fast", "integrated"): PenaltyGradient(
            num_samples=1, rows=64, every=8, weight=1.0, limit=10.0
        ),
    }

    def penalty(
        self, estimator: Estimator, x: Tensor, generator: Generator, attached: bool
    ) -> Tensor:
        """Return estimates of tr I_x, shape `(B,)`."""
        return fisher_trace(estimator, x, self.settings.num_samples, generator, attached)


class FIMEigenvalue(Penalized):
    r"""Mean of -log q(theta|x) + beta lambda_max(I_x).

    I_x is estimated from a few samples of theta, whose scores span its range (with one sample, the
    eigenvalue is the trace). `method=exact` takes the largest eigenvalue of that estimate;
    `method=power` approaches it by a few Fisher-vector products, starting from the mean direction
    of the previous batch. The latter suffers less from the upward bias of a maximum over few
    samples. `gradient=exact` is as for `FIM`; `fast` takes 5 samples on 64 rows at every 8th step.

    Args:
        beta: As for `Penalized`, and so are all others not named here.
        method: `exact` or `power`.
        iterations: Fisher-vector products of the power method.
    """

    name = "fim_eigenvalue"
    gradients: ClassVar[dict[str, PenaltyGradient]] = {
        "fast": PenaltyGradient(num_samples=5, rows=64, every=8, weight=1.0, limit=10.0),
        "exact": PenaltyGradient(num_samples=5, rows=None, every=1, weight=0.85),
    }

    def __init__(
        self,
        beta: float = 0.01,
        method: Literal["exact", "power"] = "exact",
        iterations: int = 2,
        gradient: Literal["fast", "exact"] = "fast",
        num_samples: int | None = None,
        rows: int | None = None,
        every: int | None = None,
        weight: float | None = None,
        max_norm: float | None = None,
    ) -> None:
        require(method in ("exact", "power"), "defense.method", method, "exact or power")
        require_positive_integer("defense.iterations", iterations)
        self.method = method
        self.iterations = iterations
        super().__init__(beta, gradient, num_samples, rows, every, weight, max_norm)

    @override
    def setup(self, estimator: Estimator, theta: Tensor, x: Tensor) -> None:
        super().setup(estimator, theta, x)
        self._direction = torch.zeros_like(x[0])  # none yet

    def penalty(
        self, estimator: Estimator, x: Tensor, generator: Generator, attached: bool
    ) -> Tensor:
        """Return estimates of lambda_max(I_x), shape `(B,)`."""
        score = scores(estimator, x, self.settings.num_samples, generator, attached)
        vector = self._eigenvector(score.detach(), keep=attached)
        return rayleigh_quotient(score, vector)

    def _eigenvector(self, score: Tensor, keep: bool) -> Tensor:
        if self.method == "exact":
            return largest_eigenvector(score)
        start = self._direction.expand_as(score[0]) if self._direction.any() else score[0]
        vector = power_iteration(score, start, self.iterations)
        if keep:
            signs = torch.einsum("bi,bi->b", vector, start).sign()
            self._direction = torch.nn.functional.normalize(signs @ vector, dim=0)
        return vector

    def state_dict(self) -> dict[str, Any]:
        """See `Defense.state_dict`; the direction that the power method starts from, too."""
        return {**super().state_dict(), "direction": self._direction}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._direction.copy_(state["direction"])
