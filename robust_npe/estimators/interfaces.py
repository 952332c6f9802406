"""What an estimator is made of: a head, and the embedding net before it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from torch import Tensor, nn
from torch.distributions import Distribution

from robust_npe.components import Component

__all__ = ["Embedding", "Head", "ScoreMethod"]

ScoreMethod = Literal["compiled", "embedded", "differentiated", "inverted", "integrated"]
"""How grad_x log q(theta|x) is computed, which decides what it costs: by kernels; by kernels, and
the embedding net by automatic differentiation; by that alone; by that through the inverse of a
flow; by that through the steps of a solver."""


class Head(nn.Module, Component, ABC):
    """A conditional density estimator: maps a context to a distribution over R^D.

    Its constructor takes `dim_theta`, `dim_context`, and settings. A head that is not trained with
    the mean of -log q(z) has a method `loss(q, z)`: the scalar to minimise instead, for what
    `forward` returned for a batch and the `z (B, D)` that belong to it. It draws from torch's
    global stream, which training seeds.

    Attributes:
        models_x: Whether z are latent variables of x, and the head is trained on x alone: its
            constructor takes the number of features `dim_x`, too, and `loss(q, x)` the observations
            `(B, Dx)` in their own units.
        classifies: Whether z is a label, see `robust_npe.tasks.Classification`: its constructor
            takes the number of classes `num_classes`, too.
    """

    models_x: bool = False
    classifies: bool = False

    @property
    def score_method(self) -> ScoreMethod:
        """How the gradient of its log density by the context is computed, see `ScoreMethod`."""
        return "differentiated"

    @abstractmethod
    def forward(self, context: Tensor) -> Distribution:
        """Return the distribution for `context (B, C)`, batch shape `(B,)`, event shape `(D,)`."""


class Embedding(nn.Module, Component, ABC):
    """Turns an observation into the context of a head.

    Its constructor takes `dim_x`, and settings.

    Attributes:
        dim_out: Number of features C of the context.
    """

    dim_out: int

    def share_statistics(self, standardize: nn.Module) -> None:
        """Make the standardisation of x equal for features that the net treats alike.

        Args:
            standardize: Its buffers have one number for each feature, `(Dx,)`.
        """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Map standardised `x (*, Dx)` to `(*, C)`."""
