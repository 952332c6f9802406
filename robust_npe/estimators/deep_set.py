"""An embedding of sets: it does not depend on the order of exchangeable observations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from robust_npe.checks import require, require_positive_integer, require_widths
from robust_npe.estimators.embeddings import mlp
from robust_npe.estimators.interfaces import Embedding

__all__ = ["DeepSet"]


class DeepSet(Embedding):
    """rho(mean_i phi(x_i)) for x = (x_1, ..., x_n): a deep set, with the mean in place of the sum.

    phi and rho are fully connected nets. The elements are standardised alike.

    References:
        Zaheer et al. (2017), "Deep sets", https://arxiv.org/abs/1703.06114

    Args:
        dim_x: Number of features of x.
        shape: Number n of elements and of features of each, element after element in x; None for
            elements that are numbers.
        hidden: Widths of the hidden layers of phi, and of rho.
        dim_element: Number of features that are averaged.
        dim_out: Number of features of the embedding.
    """

    def __init__(
        self,
        dim_x: int,
        shape: Sequence[int] | None = None,
        hidden: Sequence[int] = (100, 100),
        dim_element: int = 100,
        dim_out: int = 50,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape) if shape is not None else (dim_x, 1)
        fits = len(self.shape) == 2 and math.prod(self.shape) == dim_x and min(self.shape) > 0
        require(fits, "embedding.shape", shape, f"(elements, features) with a product of {dim_x}")
        require_widths("embedding.hidden", hidden)
        require_positive_integer("embedding.dim_element", dim_element)
        require_positive_integer("embedding.dim_out", dim_out)
        self.dim_out = dim_out
        self.phi = mlp(self.shape[1], hidden, dim_element)
        self.rho = mlp(dim_element, hidden, dim_out)

    @override
    def share_statistics(self, standardize: nn.Module) -> None:
        with torch.no_grad():
            for buffer in standardize.buffers():
                each = buffer.unflatten(0, self.shape)
                shared = each.all(0) if each.dtype == torch.bool else each.mean(0)
                buffer.copy_(shared.repeat(self.shape[0]))

    def forward(self, x: Tensor) -> Tensor:
        """Map `x (*, Dx)` to `(*, dim_out)`."""
        return self.rho(self.phi(x.unflatten(-1, self.shape)).mean(-2))
