"""Encoders whose margins are known; no tests here."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from torch import nn
from torch.distributions import Independent, Normal

from robust_npe.random import stream


def normal(mean, std):
    return Independent(Normal(mean, std, validate_args=False), 1, validate_args=False)


class HalfSpace(nn.Module):
    """N(W x, sigma^2 I) with W of rank one, and a decoder g(z) = sigmoid(w . z).

    Where g(mu) = 0.1, |Delta| > r = 0.3 in the half-space of g(z) > 0.4, and nowhere else.
    """

    r = 0.3

    def __init__(self, sigma=0.5):
        super().__init__()
        self.sigma = sigma
        self.w = torch.tensor([1.0, -2.0, 0.5])
        self.u = torch.tensor([0.6, 0.0, 0.8, 0.0, 1.0])
        self.head = SimpleNamespace(decode=lambda z: torch.sigmoid(z @ self.w).unsqueeze(-1))
        self.distance = logit(0.4) - logit(0.1)  # in w . z

    def forward(self, x):
        mean = (x @ self.u).unsqueeze(-1) * self.w / self.w.norm()
        return normal(mean, torch.full_like(mean, self.sigma))

    def at(self, num):
        """Observations with g(mu) = 0.1, `(num, 5)`."""
        x = torch.randn(num, 5, generator=stream(0, "half-space"))
        along = logit(0.1) / self.w.norm() - x @ self.u
        return x + along.unsqueeze(-1) * self.u / self.u.square().sum()

    @property
    def probability(self):
        return float(torch.special.ndtr(self.distance / (self.sigma * self.w.norm())))

    @property
    def margin(self):
        return float(self.distance / (self.w.norm() * self.u.norm()))


def logit(p):
    return math.log(p / (1 - p))


def spreading(rate):
    """An encoder whose sigma(x) = exp(rate x) changes, and hardly its mean, for x `(B, 1)`."""
    return lambda x: normal(1e-3 * x, torch.exp(rate * x))
