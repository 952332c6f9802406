r"""Regularisation by the Jacobian of samples of q(theta|x) with respect to x."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor
from typing_extensions import override

from robust_npe.checks import ConfigError
from robust_npe.defenses.penalty import Penalized, PenaltyGradient
from robust_npe.estimators import Estimator, GaussianMixture, Pushforward
from robust_npe.random import child, draws_from, replay

__all__ = ["Jacobian"]

STEP = 1e-2  # length of a difference, in standard deviations of the narrowest feature


class Jacobian(Penalized):
    r"""Mean of -log q(theta|x) + beta E |d theta(z, x) / dx|_F^2; arguments as for `Penalized`.

    theta(z, x) is the sample of q(.|x) that belongs to the noise z: the penalty is how far samples
    move with the observation while the noise stays. theta counts in standard deviations of the
    training data and x in its own units, so that the penalty has no units of theta, and beta is in
    units of x squared, as for `FIM`. Unlike Fisher information it does not divide by the width of
    q: narrow posteriors may be as sensitive, in absolute terms, as wide ones.

    The squared norm is Dx E_v |d theta / dx v|^2 over unit vectors v, of which one is drawn for
    each sample. Random projections are the source's; ours are of x instead of theta, and central
    differences of samples with common noise instead of second derivatives, because the inverse
    of an autoregressive flow has first derivatives only, at a D-th of the cost. `gradient=exact`
    takes the whole batch at every step, `fast` most of it at every fourth.

    References:
        Hoffman, Roberts & Yaida (2019), "Robust learning with Jacobian regularization",
        https://arxiv.org/abs/1908.02729
    """

    name = "jacobian"
    gradients: ClassVar[dict[str, PenaltyGradient]] = {
        "fast": PenaltyGradient(num_samples=1, rows=320, every=4, weight=1.0, limit=10.0),
        "exact": PenaltyGradient(num_samples=1, rows=None, every=1, weight=1.0),
    }

    @override
    def setup(self, estimator: Estimator, theta: Tensor, x: Tensor) -> None:
        super().setup(estimator, theta, x)
        self._scale = theta.std(0, correction=0).clamp(min=torch.finfo(theta.dtype).tiny)
        self._length = STEP * float(estimator.standardize.unit(x).min())

    def penalty(
        self, estimator: Estimator, x: Tensor, generator: Generator, attached: bool
    ) -> Tensor:
        """Return estimates of E |d theta / dx|_F^2, shape `(B,)`."""
        copies = x.detach().repeat(self.settings.num_samples, 1)
        noise = torch.randn(copies.shape, generator=generator, dtype=x.dtype).to(x.device)
        move = self._length * torch.nn.functional.normalize(noise, dim=1)
        with torch.set_grad_enabled(attached):
            pair = estimator(copies - move), estimator(copies + move)
            before, after = coupled_samples(*pair, child(generator))
            slope = (after - before) / (2 * self._length * self._scale)
            squares = x.shape[1] * slope.square().sum(-1)
        return squares.reshape(-1, len(x)).mean(0)


def coupled_samples(p: Pushforward, q: Pushforward, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return one sample of each of two distributions nearby, made from the same noise, `(B, D)`.

    Raises:
        ConfigError: They have no reparameterised samples.
    """
    if not (p.has_rsample and q.has_rsample):
        raise ConfigError(
            f"defense=jacobian is not valid for {type(p.base).__name__}, which has no "
            "reparameterised samples: it must be used with another estimator, such as maf."
        )
    with draws_from(replay(generator)):
        z = p.base.rsample()
    if isinstance(p.base, GaussianMixture) and isinstance(q.base, GaussianMixture):
        return p.bijection(z), q.bijection(p.base.carried(z, q.base))
    with draws_from(replay(generator)):
        return p.bijection(z), q.bijection(q.base.rsample())
