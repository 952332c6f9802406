"""Posteriors with planted vulnerabilities, whose worst cases are known; no tests here.

q(.|x) = N(mu(x), I) with mu a function of the coordinates of x along a few hidden orthonormal
directions, for 20 features; the observations are x = 0 and the ball is that of L2 with radius 1, so
that KL(q(.|0) || q(.|x~)) = |mu(x~) - mu(0)|^2 / 2, in either direction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from robust_npe.random import stream

__all__ = ["DETERMINISTIC", "DIM", "PLANTED", "Planted", "noisy", "observations", "planted_kl"]

DIM = 20


def observations(num: int = 64) -> Tensor:
    return torch.zeros(num, DIM)


def directions() -> Tensor:
    """Two hidden orthonormal directions, the columns of `(DIM, 2)`."""
    return torch.linalg.qr(torch.randn(DIM, 2, generator=stream(17, "hidden"))).Q


@dataclass(frozen=True)
class Planted:
    """A posterior with mean `mu(t)`, where t `(B, 2)` are the coordinates of x.

    Attributes:
        mu: Maps t to means `(B, 2)`.
        worst: Largest KL within the ball.
    """

    mu: Callable[[Tensor], Tensor]
    worst: float

    def __call__(self, x: Tensor) -> Distribution:
        mean = self.mu(x @ directions().to(x))
        return Independent(Normal(mean, torch.ones_like(mean)), 1)


def planted_kl(posterior: Planted, x_adv: Tensor) -> Tensor:
    """Exact divergence from the posterior at 0, `(B,)`."""
    with torch.no_grad():
        moved = posterior(x_adv).mean - posterior(torch.zeros_like(x_adv)).mean
    return 0.5 * moved.square().sum(-1)


def _linear(t: Tensor) -> Tensor:
    return torch.stack((3 * t[:, 0], 0 * t[:, 1]), -1)


def _narrow(t: Tensor) -> Tensor:
    """Steep beyond 0.5, along the second eigenvector of I_x, in one sign."""
    return torch.stack((t[:, 0], 0.3 * t[:, 1] + 10 * (t[:, 1] - 0.5).relu()), -1)


def _saturated(t: Tensor) -> Tensor:
    """A step of slope 400 x 2, whose gradient is zero elsewhere."""
    return torch.stack((8 * torch.sigmoid(400 * (t[:, 0] - 0.25)), 0.25 * t[:, 1]), -1)


def _quantised(t: Tensor) -> Tensor:
    """Rounded, beside a gradient that leads elsewhere."""
    return torch.stack(((8 * t[:, 0]).round(), 0.1 * t[:, 1]), -1)


def _rounded(t: Tensor) -> Tensor:
    """Rounded, without any gradient."""
    return torch.stack(((8 * t[:, 0]).round(), 0 * t[:, 1]), -1)


def _kink(t: Tensor) -> Tensor:
    """Flat around 0, and a lower hill on the other side."""
    rise = 2 * (t[:, 0] - 0.05).relu() - 0.8 * (-t[:, 0] - 0.05).relu()
    return torch.stack((rise / 0.95, 0 * t[:, 1]), -1)


DETERMINISTIC = {
    "linear": Planted(_linear, 4.5),
    "narrow": Planted(_narrow, 0.5 * 5.3**2),
    "saturated": Planted(_saturated, 0.5 * (8**2 + 0.25**2 * (1 - 0.25**2))),
    "quantised": Planted(_quantised, 0.5 * (8**2 + 0.1**2 * (1 - (7.5 / 8) ** 2))),
    "rounded": Planted(_rounded, 32.0),
    "kink": Planted(_kink, 2.0),
}


def noisy(x: Tensor) -> Distribution:
    """The linear one, with noise of its own in every call."""
    q = DETERMINISTIC["linear"](x)
    mean = q.mean + 2 * torch.randn(q.mean.shape)
    return Independent(Normal(mean, torch.ones_like(mean)), 1)


PLANTED = {**DETERMINISTIC, "noisy": noisy}
