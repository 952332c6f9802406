"""Embedding nets: what turns an observation into the context of the density estimator."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from robust_npe.checks import require_positive_integer, require_widths
from robust_npe.estimators.interfaces import Embedding

__all__ = ["MLP", "Identity", "mlp"]


def mlp(dim_in: int, hidden: Sequence[int], dim_out: int) -> nn.Sequential:
    """Return a ReLU network with linear output."""
    sizes = [dim_in, *hidden]
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], dim_out))


class Identity(Embedding):
    """No embedding: the z-scored observation itself."""

    def __init__(self, dim_x: int) -> None:
        super().__init__()
        self.dim_out = dim_x

    def forward(self, x: Tensor) -> Tensor:
        """Return x."""
        return x


class MLP(Embedding):
    """Fully connected embedding; the defaults are the published ones.

    Args:
        dim_x: Number of features of x.
        hidden: Widths of the hidden layers.
        dim_out: Number of features of the embedding.
    """

    def __init__(
        self, dim_x: int, hidden: Sequence[int] = (400, 200, 100), dim_out: int = 50
    ) -> None:
        super().__init__()
        require_positive_integer("embedding.dim_out", dim_out)
        require_widths("embedding.hidden", hidden)
        self.dim_out = dim_out
        self.net = mlp(dim_x, hidden, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x (*, Dx)` to `(*, dim_out)`."""
        return self.net(x)
