"""Defenses that train on perturbed observations: noise, adversarial training, TRADES."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

from torch import Generator, Tensor
from typing_extensions import override

from robust_npe.attacks import (
    PGD,
    Attack,
    Ball,
    Domain,
    KLForward,
    KLReverse,
    NegativeLogLikelihood,
    Noise,
    Objective,
    data_domain,
    make_ball,
    std_unit,
)
from robust_npe.checks import (
    require,
    require_not_negative,
    require_positive,
    require_positive_integer,
)
from robust_npe.defenses.base import Batch, Defense, ready
from robust_npe.divergences import kl
from robust_npe.estimators import Estimator
from robust_npe.random import child

__all__ = ["TRADES", "AdversarialTraining", "AttackedTraining", "NoiseAugmentation"]

Norm = Literal["l1", "l2", "linf"]


class PerturbedTraining(Defense):
    """Common part: a ball in units of the training data, and an attack in it.

    Args:
        epsilon: Training radius, in units of the mean standard deviation over features.
        norm: Norm of the ball.
    """

    epsilon: float
    attack: Attack

    def __init__(self, epsilon: float = 1.0, norm: Norm = "l2") -> None:
        require_positive("defense.epsilon", epsilon)
        make_ball(norm, 0.0)
        self.epsilon = epsilon
        self.norm = norm
        self.ball: Ball | None = None

    def setup(self, estimator: Estimator, theta: Tensor, x: Tensor) -> None:
        """Fix radius and domain from the training data."""
        self.attack = self._attack()
        self.ball = make_ball(self.norm, self.epsilon * std_unit(x), domain=self._domain(x))

    def facts(self) -> dict[str, Any]:
        """Return the training radius in units of x."""
        return {"radius": ready(self.ball).radius}

    @abstractmethod
    def _attack(self) -> Attack:
        """Return the attack."""

    def _domain(self, x: Tensor) -> Domain | None:
        """Where x~ must lie, for training data `x (N, Dx)`."""
        return None

    def perturb(self, estimator: Estimator, batch: Batch, generator: Generator) -> Tensor:
        """Return x~ of shape `(B, Dx)`."""
        ball = ready(self.ball)
        return self.attack(estimator, batch.x, batch.theta, ball=ball, generator=generator)


class NoiseAugmentation(PerturbedTraining):
    """Mean of -log q(theta|x + u), u uniform in a ball; arguments as for `PerturbedTraining`."""

    name = "noise"

    def _attack(self) -> Attack:
        return Noise()

    @override
    def loss(self, estimator: Estimator, batch: Batch, generator: Generator) -> Tensor:
        return estimator.loss(batch.theta, self.perturb(estimator, batch, generator))


class AttackedTraining(PerturbedTraining):
    """Perturbations from PGD on the network in its present state.

    The network is frozen meanwhile, so the attack's gradients never reach the weights' `.grad`.

    Args:
        epsilon: Training radius, in units of the mean standard deviation over features.
        norm: Norm of the ball.
        steps: Steps of PGD.
        step_size: Length of one step, in the same units as epsilon.
        warm_start: Start at the pair's perturbation of an earlier epoch instead of at random:
            then fewer steps are enough. Keeps a copy of x in memory.
        attack_every: Attack in every so many epochs, and use the last perturbations in between;
            also keeps a copy of x.
    """

    attack: PGD

    def __init__(
        self,
        epsilon: float = 1.0,
        norm: Norm = "l2",
        steps: int = 20,
        step_size: float = 0.1,
        warm_start: bool = False,
        attack_every: int = 1,
    ) -> None:
        super().__init__(epsilon, norm)
        require_positive_integer("defense.steps", steps)
        require_positive("defense.step_size", step_size)
        require_positive_integer("defense.attack_every", attack_every)
        self.steps = steps
        self.step_size = step_size
        self.warm_start = warm_start
        self.attack_every = attack_every
        self._kept: Tensor | None = None

    @override
    def setup(self, estimator: Estimator, theta: Tensor, x: Tensor) -> None:
        super().setup(estimator, theta, x)
        self._kept = x.clone() if self.warm_start or self.attack_every > 1 else None

    @abstractmethod
    def _objective(self) -> Objective:
        """What the inner attack climbs."""

    def _attack(self) -> PGD:
        return PGD(
            self._objective(),
            steps=self.steps,
            step_size=min(1.0, self.step_size / self.epsilon),
            schedule="constant",
            select="last",
        )

    def _domain(self, x: Tensor) -> Domain:
        return data_domain(x)

    def perturb(self, estimator: Estimator, batch: Batch, generator: Generator) -> Tensor:
        """Return x~ of shape `(B, Dx)`, remembered where the batch has an index."""
        kept, index = self._kept, batch.index
        if kept is None or index is None:
            return super().perturb(estimator, batch, generator)
        if batch.epoch % self.attack_every == 0:
            initial = kept[index] if self.warm_start and batch.epoch > 0 else None
            pairs = batch.x, batch.theta
            found = self.attack.search(estimator, *pairs, ready(self.ball), generator, initial)
            kept[index] = found.x_adv
        return kept[index]

    def state_dict(self) -> dict[str, Any]:
        """See `Defense.state_dict`: the perturbed training data, where they are remembered."""
        return {} if self._kept is None else {"x_adv": self._kept}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._kept is not None:
            self._kept.copy_(state["x_adv"])


class AdversarialTraining(AttackedTraining):
    """Mean of -log q(theta|x~), x~ from PGD that makes the true theta improbable.

    Arguments as for `AttackedTraining`.

    References:
        Madry et al. (2018), "Towards deep learning models resistant to adversarial attacks",
        https://arxiv.org/abs/1706.06083
    """

    name = "adversarial_training"

    def _objective(self) -> Objective:
        return NegativeLogLikelihood()

    @override
    def loss(self, estimator: Estimator, batch: Batch, generator: Generator) -> Tensor:
        return estimator.loss(batch.theta, self.perturb(estimator, batch, generator))


class TRADES(AttackedTraining):
    """Mean of -log q(theta|x) + beta KL(q(.|x) || q(.|x~)), x~ from PGD on the same divergence.

    References:
        Zhang et al. (2019), "Theoretically principled trade-off between robustness and accuracy",
        https://arxiv.org/abs/1901.08573

    Args:
        beta: Weight of the divergence, not negative.
        epsilon: As for `AttackedTraining`, and so are all others not named here.
        divergence: `kl_forward`, KL(q(.|x) || q(.|x~)), or `kl_reverse`.
        num_samples: Samples of the divergence, in the attack and in the loss.
    """

    name = "trades"
    beta: float

    def __init__(
        self,
        beta: float = 0.1,
        epsilon: float = 0.5,
        norm: Norm = "l2",
        steps: int = 20,
        step_size: float = 0.1,
        divergence: Literal["kl_forward", "kl_reverse"] = "kl_forward",
        num_samples: int = 1,
        warm_start: bool = False,
        attack_every: int = 1,
    ) -> None:
        super().__init__(epsilon, norm, steps, step_size, warm_start, attack_every)
        known = divergence in ("kl_forward", "kl_reverse")
        require_not_negative("beta", beta)
        require(known, "defense.divergence", divergence, "kl_forward or kl_reverse")
        require_positive_integer("defense.num_samples", num_samples)
        self.beta = beta
        self.divergence = divergence
        self.num_samples = num_samples

    def _objective(self) -> Objective:
        if self.divergence == "kl_reverse":
            return KLReverse(self.num_samples)
        # the attack returns its last iterate, so nothing is scored: a pool for the steps suffices
        return KLForward(self.num_samples, pool=5 * self.num_samples)

    @override
    def loss(self, estimator: Estimator, batch: Batch, generator: Generator) -> Tensor:
        x_adv = self.perturb(estimator, batch, generator)
        clean, moved = estimator(batch.x), estimator(x_adv)
        p, q = (clean, moved) if self.divergence == "kl_forward" else (moved, clean)
        divergence = kl(p, q, self.num_samples, child(generator)).mean()
        return estimator.loss(batch.theta, batch.x, clean) + self.beta * divergence
