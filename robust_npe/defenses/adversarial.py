"""Defenses that train on perturbed observations: noise, adversarial training, TRADES."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Generator, Tensor

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
from robust_npe.checks import require
from robust_npe.defenses.base import Defense, negative_log_likelihood
from robust_npe.divergences import kl
from robust_npe.estimators import Estimator
from robust_npe.random import child

__all__ = ["TRADES", "AdversarialTraining", "NoiseAugmentation"]


class _PerturbedTraining(Defense):
    """Common part: a ball in units of the training data, and an attack in it.

    Args:
        epsilon: Training radius, in units of the mean standard deviation over features.
        norm: Norm of the ball.
    """

    epsilon: float

    def __init__(self, epsilon: float, norm: str) -> None:
        require(epsilon > 0, "defense.epsilon", epsilon, "a positive number")
        make_ball(norm, 0.0)
        self.epsilon = epsilon
        self.norm = norm
        self.ball: Ball | None = None

    def setup(self, theta: Tensor, x: Tensor) -> None:
        """Fix radius and domain from the training data."""
        self.attack = self._attack()
        self.ball = make_ball(self.norm, self.epsilon * std_unit(x), domain=self._domain(x))

    @abstractmethod
    def _attack(self) -> Attack:
        """Return the attack."""

    def _domain(self, x: Tensor) -> Domain | None:
        """Where x~ must lie, for training data `x (N, Dx)`."""
        return None

    def perturb(
        self, estimator: Estimator, theta: Tensor, x: Tensor, generator: Generator
    ) -> Tensor:
        """Return x~ of shape `(B, Dx)`."""
        ball = self._ready()
        return self.attack(estimator, x, theta, ball=ball, generator=generator)

    def _ready(self) -> Ball:
        if self.ball is None:
            raise RuntimeError("call setup(theta, x) with the training data before training.")
        return self.ball


class NoiseAugmentation(_PerturbedTraining):
    """Mean of -log q(theta|x + u), u uniform in a ball.

    Args:
        epsilon: Radius, in units of the mean standard deviation over features.
        norm: Norm of the ball.
    """

    name = "noise"

    def __init__(self, epsilon: float = 1.0, norm: str = "l2") -> None:
        super().__init__(epsilon, norm)

    def _attack(self) -> Attack:
        return Noise()

    def loss(self, estimator: Estimator, theta: Tensor, x: Tensor, generator: Generator) -> Tensor:
        """See `Defense.loss`."""
        x_noisy = self.perturb(estimator, theta, x, generator)
        return negative_log_likelihood(estimator, theta, x_noisy)


class _AttackedTraining(_PerturbedTraining):
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

    def __init__(
        self,
        epsilon: float,
        norm: str,
        steps: int,
        step_size: float,
        warm_start: bool,
        attack_every: int,
    ) -> None:
        super().__init__(epsilon, norm)
        require(steps > 0, "defense.steps", steps, "a positive integer")
        require(step_size > 0, "defense.step_size", step_size, "a positive number")
        require(attack_every > 0, "defense.attack_every", attack_every, "a positive integer")
        self.steps = steps
        self.step_size = step_size
        self.warm_start = warm_start
        self.attack_every = attack_every
        self.remembers = warm_start or attack_every > 1

    def setup(self, theta: Tensor, x: Tensor) -> None:
        """See `Defense.setup`; forgets the perturbations of an earlier training."""
        super().setup(theta, x)
        self._index: Tensor | None = None
        if self.remembers:
            self._kept = x.clone()
            self._visits = torch.zeros(len(x), dtype=torch.long, device=x.device)

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

    def select(self, index: Tensor) -> None:
        """See `Defense.select`."""
        self._index = index

    def perturb(
        self, estimator: Estimator, theta: Tensor, x: Tensor, generator: Generator
    ) -> Tensor:
        """Return x~ of shape `(B, Dx)`, for the pairs selected last or for any others."""
        ball, index = self._ready(), self._index
        self._index = None
        if index is None or not self.remembers:
            return self.attack(estimator, x, theta, ball=ball, generator=generator)
        epoch = int(self._visits[index[0]])  # every pair is visited once per epoch
        self._visits[index] += 1
        if epoch % self.attack_every == 0:
            initial = self._kept[index] if self.warm_start and epoch > 0 else None
            assert isinstance(self.attack, PGD)
            found = self.attack.search(estimator, x, theta, ball, generator, initial)
            self._kept[index] = found.x_adv
        return self._kept[index]


class AdversarialTraining(_AttackedTraining):
    """Mean of -log q(theta|x~), x~ from PGD that makes the true theta improbable.

    References:
        Madry et al. (2018), "Towards deep learning models resistant to adversarial attacks",
        https://arxiv.org/abs/1706.06083

    Args:
        epsilon: Training radius, in units of the mean standard deviation over features.
        norm: Norm of the ball.
        steps: Steps of the inner PGD.
        step_size: Length of one step, in the same units as epsilon.
        warm_start: Start at the pair's perturbation of the epoch before: fewer steps suffice.
        attack_every: Attack in every so many epochs; use the last perturbations in between.
    """

    name = "adversarial_training"

    def __init__(
        self,
        epsilon: float = 1.0,
        norm: str = "l2",
        steps: int = 20,
        step_size: float = 0.1,
        warm_start: bool = False,
        attack_every: int = 1,
    ) -> None:
        super().__init__(epsilon, norm, steps, step_size, warm_start, attack_every)

    def _objective(self) -> Objective:
        return NegativeLogLikelihood()

    def loss(self, estimator: Estimator, theta: Tensor, x: Tensor, generator: Generator) -> Tensor:
        """See `Defense.loss`."""
        x_adv = self.perturb(estimator, theta, x, generator)
        return negative_log_likelihood(estimator, theta, x_adv)


class TRADES(_AttackedTraining):
    """Mean of -log q(theta|x) + beta KL(q(.|x) || q(.|x~)), x~ from PGD on the same divergence.

    References:
        Zhang et al. (2019), "Theoretically principled trade-off between robustness and accuracy",
        https://arxiv.org/abs/1901.08573

    Args:
        beta: Weight of the divergence, not negative.
        epsilon: Training radius, in units of the mean standard deviation over features.
        norm: Norm of the ball.
        steps: Steps of the inner PGD.
        step_size: Length of one step, in the same units as epsilon.
        divergence: `kl_forward`, KL(q(.|x) || q(.|x~)), or `kl_reverse`.
        num_samples: Samples of the divergence, in the attack and in the loss.
        warm_start: Start at the pair's perturbation of the epoch before: fewer steps suffice.
        attack_every: Attack in every so many epochs; use the last perturbations in between.
    """

    name = "trades"
    beta: float

    def __init__(
        self,
        beta: float = 0.1,
        epsilon: float = 0.5,
        norm: str = "l2",
        steps: int = 20,
        step_size: float = 0.1,
        divergence: str = "kl_forward",
        num_samples: int = 1,
        warm_start: bool = False,
        attack_every: int = 1,
    ) -> None:
        super().__init__(epsilon, norm, steps, step_size, warm_start, attack_every)
        require(beta >= 0, "beta", beta, "a number that is not negative")
        require(
            divergence in ("kl_forward", "kl_reverse"),
            "defense.divergence",
            divergence,
            "kl_forward or kl_reverse",
        )
        require(num_samples > 0, "defense.num_samples", num_samples, "a positive integer")
        self.beta = beta
        self.divergence = divergence
        self.num_samples = num_samples

    def _objective(self) -> Objective:
        if self.divergence == "kl_reverse":
            return KLReverse(self.num_samples)
        # the attack returns its last iterate, so nothing is scored: a pool for the steps suffices
        return KLForward(self.num_samples, pool=5 * self.num_samples)

    def loss(self, estimator: Estimator, theta: Tensor, x: Tensor, generator: Generator) -> Tensor:
        """See `Defense.loss`."""
        x_adv = self.perturb(estimator, theta, x, generator)
        clean, moved = estimator(x), estimator(x_adv)
        p, q = (clean, moved) if self.divergence == "kl_forward" else (moved, clean)
        divergence = kl(p, q, self.num_samples, child(generator)).mean()
        return self.beta * divergence - clean.log_prob(theta).mean()
