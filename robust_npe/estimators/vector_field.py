r"""The network of a continuous flow, whose exact divergence costs one more matrix product.

F(z) = b3 + W3 (h1 + h2), h1 = silu(g W1 z + b1), h2 = silu(b2 + W2 h1), where the gain g depends on
time, the shifts b1, b2 on the observation and on time, and none on z. With the slopes d1 and d2 of
both layers, the trace of the Jacobian W3 (I + diag(d2) W2) diag(d1 g) W1 is

    tr dF/dz = d1 . (g diag A) + d2 . (M d1),    A = W1 W3,    M_jk = W2_jk A_kj g_k,

one product with an H x H matrix, whatever the number of parameters D. See docs/fmpe.md.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

__all__ = ["VectorField"]

FREQUENCIES = 6  # of the embedding of time
HIGHEST = 2.0  # of them, in periods


class VectorField(nn.Module):
    """F(z, x, s) for z in R^D, a context of C features, and a time s in [0, 1].

    What depends on the context alone, and on time alone, is computed apart, so that a solver
    computes it once: `of_context` for all times, and `of_time` for all observations.

    Args:
        dim_theta: Number of coordinates D.
        dim_context: Number of features C.
        hidden: Width H of all hidden layers.
    """

    frequencies: Tensor

    def __init__(self, dim_theta: int, dim_context: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(dim_theta, hidden, bias=False)
        self.second = nn.Linear(hidden, hidden, bias=False)
        self.last = nn.Linear(hidden, dim_theta)
        self.context = nn.Sequential(
            *(nn.Linear(dim_context, hidden), nn.SiLU()),
            *(nn.Linear(hidden, hidden), nn.SiLU()),
            nn.Linear(hidden, 2 * hidden),
        )
        self.time = nn.Sequential(
            *(nn.Linear(2 * FREQUENCIES, hidden), nn.SiLU()),
            nn.Linear(hidden, 5 * hidden),
        )
        exponents = torch.linspace(-1, math.log2(HIGHEST), FREQUENCIES)
        self.register_buffer("frequencies", 2 * math.pi * 2**exponents, persistent=False)

    def of_context(self, context: Tensor) -> Tensor:
        """Map contexts `(*, C)` to what `forward` needs of them."""
        return self.context(context)

    def of_time(self, s: Tensor) -> Tensor:
        """Map times `(*)` to what `forward` needs of them."""
        phase = s.unsqueeze(-1) * self.frequencies
        return self.time(torch.cat((phase.sin(), phase.cos()), -1))

    def forward(self, z: Tensor, context: Tensor, time: Tensor) -> Tensor:
        """Return F for `z (*, D)`, and results of `of_context` and `of_time` that broadcast."""
        gain, b1, b2 = self._modulation(context, time)
        h1, _ = _silu(torch.addcmul(b1, self.first(z), gain))
        h2, _ = _silu(b2 + self.second(h1))
        return self.last(h1 + h2)

    def with_divergence(self, z: Tensor, context: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Return F `(*, D)` and tr dF/dz `(*)`; `time` is that of one number."""
        gain, b1, b2 = self._modulation(context, time)
        h1, s1 = _silu(torch.addcmul(b1, self.first(z), gain))
        h2, s2 = _silu(b2 + self.second(h1))
        d1, d2 = s1 + h1 * (1 - s1), s2 + h2 * (1 - s2)
        a = self.first.weight @ self.last.weight
        m = self.second.weight * a.T * gain
        divergence = d1 @ (gain * a.diagonal()) + (d2 * linear(d1, m)).sum(-1)
        return self.last(h1 + h2), divergence

    @staticmethod
    def _modulation(context: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return g, b1 and b2; time also scales the context's part of the shifts."""
        c1, c2 = context.chunk(2, -1)
        gain, scale1, scale2, t1, t2 = time.chunk(5, -1)
        return 1 + gain, torch.addcmul(t1, c1, 1 + scale1), torch.addcmul(t2, c2, 1 + scale2)


def _silu(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return silu(a) and sigmoid(a), of which its slope is made."""
    s = a.sigmoid()
    return a * s, s
