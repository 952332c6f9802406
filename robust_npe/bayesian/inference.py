"""How the weights of a Bayesian network are made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Generator, Tensor

from robust_npe.components import Component
from robust_npe.states import Stateful, check_form, numbered, take_over

if TYPE_CHECKING:
    from robust_npe.bayesian.network import WeightEnsemble

__all__ = ["Inference", "InferenceStage", "InferenceState", "Weights"]

Weights = list[Tensor]
"""Tensors with the weights of S networks: for each layer a matrix `(S, in, out)` and a bias
`(S, 1, out)`."""

Columns = dict[str, list[Any]]
"""A table: its columns by name, all of one length."""


class InferenceStage(Stateful, Protocol):
    """A part of an inference that goes step by step, such as a descent.

    Attributes:
        unit: What is counted, such as `epoch`; also the first column of `history`.
        total: How many of them there will be.
    """

    unit: str
    total: int

    @property
    def completed(self) -> int:
        """How many of them are done."""

    def step(self) -> None:
        """Do the least that can be stored afterwards: one evaluation of a gradient."""

    def history(self) -> Columns:
        """Return what is to be known of those that are done."""


class InferenceState:
    """Everything that changes while an inference runs, in one place. Its `state_dict` after any
    step is enough to go on from there, bit for bit.

    Args:
        stages: What has to be done, one after the other.
        finish: Called when that is done: puts weights into the network, and returns what is to be
            known of them, plain values.
        generator: The only source of randomness of all of this.
        weights: What stages change and do not own.
    """

    def __init__(
        self,
        stages: Sequence[InferenceStage],
        finish: Callable[[], Mapping[str, Any]],
        generator: Generator,
        weights: Sequence[Tensor] = (),
    ) -> None:
        self.stages = stages
        self.finish = finish
        self.generator = generator
        self.weights = weights

    @property
    def unit(self) -> str:
        """What is counted, such as `epoch`."""
        return self.stages[0].unit

    @property
    def completed(self) -> int:
        """How many of them are done."""
        return sum(stage.completed for stage in self.stages)

    @property
    def total(self) -> int:
        """How many of them there will be."""
        return sum(stage.total for stage in self.stages)

    @property
    def where(self) -> str:
        """Where the inference stands, for people."""
        return f"{self.unit} {self.completed}"

    def step(self) -> None:
        """Take one step of the stage that is on."""
        next(stage for stage in self.stages if stage.completed < stage.total).step()

    def history(self) -> Columns:
        """Return what is to be known of each epoch, or of each trajectory and chain."""
        parts = [stage.history() for stage in self.stages]
        columns = {name: [v for part in parts for v in part[name]] for name in parts[0]}
        if len(parts) > 1:  # which all begin with 0
            columns[self.unit] = list(range(self.completed))
        return columns

    def state_dict(self) -> dict[str, Any]:
        """Return all of it; tensors are not copied."""
        return {
            "generator": self.generator.get_state(),
            "weights": numbered(self.weights),
            "stages": {str(i): stage.state_dict() for i, stage in enumerate(self.stages)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            ConfigError: It belongs to another inference or network, or is no such state at all.
        """
        check_form(state, self.state_dict(), "inference state")
        self.generator.set_state(state["generator"])
        take_over(self.weights, state["weights"])
        for i, stage in enumerate(self.stages):
            stage.load_state_dict(state["stages"][str(i)])


class Inference(Component, ABC):
    """Makes the weights of the networks that a `WeightEnsemble` averages over."""

    @property
    @abstractmethod
    def num_draws(self) -> int:
        """Number of networks S."""

    @abstractmethod
    def begin(
        self, network: WeightEnsemble, x: Tensor, y: Tensor, generator: Generator
    ) -> InferenceState:
        """Return what has to be done to put weights into the network, before its first step.

        Args:
            network: Its architecture and prior.
            x: Training inputs, standardised, `(N, C)`.
            y: Their labels, long, `(N,)`.
            generator: The only source of randomness.
        """

    def fit(
        self, network: WeightEnsemble, x: Tensor, y: Tensor, generator: Generator
    ) -> Mapping[str, Any]:
        """Do it without a break and return what is to be known of it; arguments as for `begin`."""
        state = self.begin(network, x, y, generator)
        while state.completed < state.total:
            state.step()
        return state.finish()
