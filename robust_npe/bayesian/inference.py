"""How the weights of a Bayesian network are made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Generator, Tensor

from robust_npe.components import Component

if TYPE_CHECKING:
    from robust_npe.bayesian.network import WeightEnsemble

__all__ = ["Inference", "Weights"]

Weights = list[Tensor]
"""Tensors with the weights of S networks: for each layer a matrix `(S, in, out)` and a bias
`(S, 1, out)`."""


class Inference(Component, ABC):
    """Makes the weights of the networks that a `WeightEnsemble` averages over."""

    @property
    @abstractmethod
    def num_draws(self) -> int:
        """Number of networks S."""

    @abstractmethod
    def fit(
        self, network: WeightEnsemble, x: Tensor, y: Tensor, generator: Generator
    ) -> Mapping[str, Any]:
        """Put weights into the network.

        Args:
            network: Its architecture and prior.
            x: Training inputs, standardised, `(N, C)`.
            y: Their labels, long, `(N,)`.
            generator: The only source of randomness.

        Returns:
            What is to be known of it, plain values.
        """
