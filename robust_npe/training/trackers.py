"""Trackers: whoever wants to follow a training while it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from typing_extensions import override

from robust_npe.checks import require
from robust_npe.components import Component

__all__ = ["TensorBoard", "Tracker", "TrackerComponent"]


class Tracker(Protocol):
    """What `train` tells about a training, e.g. an adapter of a few lines to W&B or MLflow."""

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Take in the numbers of an epoch, from 0: `train_loss`, `validation_loss` (nan if training
        stopped before it) and `learning_rate`; of an inference, see `robust_npe.training.infer`.

        Epochs since the last checkpoint are told again if training was interrupted.
        """


class TrackerComponent(Component, ABC):
    """A tracker that a configuration can name. Its first argument is `run`, the key of what is
    trained, which is also the name of its folder in the store; trackers change no results, and are
    no part of their identity."""

    name: str

    @abstractmethod
    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """See `Tracker.log`."""


class TensorBoard(TrackerComponent):
    """Writes event files: `tensorboard --logdir outputs/tensorboard`.

    Args:
        run: Name of the subfolder.
        folder: Where they go.
    """

    name = "tensorboard"

    def __init__(self, run: str, folder: str = "outputs/tensorboard") -> None:
        installed = find_spec("tensorboard") is not None
        require(installed, "tracker", self.name, "left out, or: pip install tensorboard")
        self.run = run
        self.folder = folder

    @override
    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        # a file for each epoch: none is open when a process is killed
        with SummaryWriter(str(Path(self.folder) / self.run)) as writer:
            for name, value in values.items():
                writer.add_scalar(name, value, epoch)
