"""Everything that changes during training, in one place."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Generator, Tensor

from robust_npe.defenses import Defense
from robust_npe.estimators import Estimator
from robust_npe.random import child
from robust_npe.states import adam, check_form
from robust_npe.training.average import WeightAverage
from robust_npe.training.settings import TrainingSettings

__all__ = ["History", "TrainingState"]


@dataclass
class History:
    """What happened during training.

    Attributes:
        train_loss: Mean training loss of each epoch.
        validation_loss: Objective on the validation set after each epoch, inf for one in which the
            loss became non-finite and after which training went on from the best weights.
        best_epoch: Epoch (from 0) whose weights were kept.
        diverged: A loss or its gradient became non-finite; training stopped there.
        num_pairs: Number of pairs that were trained on.
        learning_rate: Learning rate of each epoch.
    """

    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    best_epoch: int = -1
    diverged: bool = False
    num_pairs: int = 0
    learning_rate: list[float] = field(default_factory=list)

    @property
    def epochs_since_best(self) -> int:
        """Number of epochs without improvement."""
        return len(self.validation_loss) - 1 - self.best_epoch

    @property
    def restarts(self) -> int:
        """How often training went on from the best weights since the loss became non-finite."""
        return sum(map(math.isinf, self.validation_loss))

    @property
    def latest(self) -> dict[str, float]:
        """The numbers of the last epoch, nan for a validation that it did not reach."""
        validated = len(self.validation_loss) == len(self.train_loss)
        return {
            "train_loss": self.train_loss[-1],
            "validation_loss": self.validation_loss[-1] if validated else math.nan,
            "learning_rate": self.learning_rate[-1],
        }


class TrainingState:
    """What training changes. Its `state_dict` after any step is enough to go on from there, bit for
    bit: on a state newly made from equal arguments, `load_state_dict` takes it over.

    Args:
        estimator: A fresh estimator; its standardisation is fitted here.
        defense: The training objective; it is set up here.
        pairs: Training data, parameters `(N, D)` and observations `(N, Dx)`.
        settings: How to train.
        generator: Source of randomness of the order of the pairs, and of the defense.

    Attributes:
        average: The moving average of the weights, which is what is validated.
        optimizer: Adam, which also holds the learning rate.
        validation_stream: State of a generator; every validation starts from it.
        history: What happened so far.
        losses: Training loss of each step of the running epoch.
        epoch_stream: State of the generator at the beginning of that epoch, which fixes its order.
        best_weights: Averaged weights of the best epoch.
    """

    def __init__(
        self,
        estimator: Estimator,
        defense: Defense,
        pairs: tuple[Tensor, Tensor],
        settings: TrainingSettings,
        generator: Generator,
    ) -> None:
        estimator.fit_standardization(*pairs)
        defense.setup(estimator, *pairs)
        self.estimator = estimator
        self.defense = defense
        self.average = WeightAverage(estimator, settings.weight_average)
        self.optimizer = adam(estimator.parameters(), settings.learning_rate, fused=True)
        self.generator = generator
        self.validation_stream = child(generator).get_state()
        self.history = History(num_pairs=len(pairs[0]))
        self.losses: list[float] = []
        self.epoch_stream = generator.get_state()
        self.best_weights: dict[str, Tensor] = {}
        self.keep_weights()

    @property
    def epoch(self) -> int:
        """Number of epochs so far."""
        return len(self.history.train_loss)

    @property
    def where(self) -> str:
        """Where training stands, for people."""
        return f"epoch {self.epoch}"

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self.optimizer.param_groups[0]["lr"] = value

    def keep_weights(self) -> None:
        """Make the present averaged weights the best ones."""
        weights = self.average.estimator.state_dict()
        self.best_weights = {name: value.clone() for name, value in weights.items()}

    def return_to_best(self) -> None:
        """Go on from the best weights, with the optimizer's moments as they are."""
        self.estimator.load_state_dict(self.best_weights)
        self.average.estimator.load_state_dict(self.best_weights)

    def forget_moments(self) -> None:
        """Make the optimizer one that has taken no step yet."""
        for moments in self._moments().values():
            for value in moments.values():
                value.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Return all of it: nested dictionaries of tensors, which are not copied (as in torch),
        numbers, booleans, and lists of numbers."""
        return {
            "estimator": self.estimator.state_dict(),
            "average": self.average.state_dict(),
            "defense": self.defense.state_dict(),
            "optimizer": self._moments(),
            "learning_rate": self.learning_rate,
            "generator": self.generator.get_state(),
            "validation_stream": self.validation_stream,
            "epoch_stream": self.epoch_stream,
            "losses": self.losses,
            "history": asdict(self.history),
            "best_weights": self.best_weights,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            ConfigError: It belongs to another architecture or defense, or is no such state at all.
        """
        check_form(state, self.state_dict(), "training state")
        self.estimator.load_state_dict(state["estimator"])
        self.average.load_state_dict(state["average"])
        self.defense.load_state_dict(state["defense"])
        for name, moments in self._moments().items():
            for key, value in moments.items():
                value.copy_(state["optimizer"][name][key])
        self.learning_rate = state["learning_rate"]
        self.generator.set_state(state["generator"])
        self.validation_stream = state["validation_stream"].clone()
        self.epoch_stream = state["epoch_stream"].clone()
        self.losses = list(state["losses"])
        self.history = History(**copy.deepcopy(state["history"]))
        for name, value in self.best_weights.items():
            value.copy_(state["best_weights"][name])

    def _moments(self) -> dict[str, dict[str, Tensor]]:
        parameters = self.estimator.named_parameters()
        return {name: self.optimizer.state[p] for name, p in parameters}
