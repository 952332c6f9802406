"""Classification as a task: theta is the label, its posterior is what a classifier predicts."""

from __future__ import annotations

import math
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Generator, Tensor
from torch.distributions import Categorical, Independent, constraints
from torch.distributions.constraints import Constraint
from typing_extensions import override

from robust_npe.checks import ConfigError, require, require_positive
from robust_npe.tasks.base import Task
from robust_npe.tasks.data import split_rows
from robust_npe.tasks.digits import bundled_digits, bundled_labels, idx_images, idx_labels
from robust_npe.tasks.images import SHARES, StoredImages

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Classification", "DigitLabels", "HalfMoons", "IDXLabels", "LabelledImages"]


class Classification(Task):
    """theta, one of K classes, is the number of the class as float32, shape `(1,)`; x is what is
    classified. The prior is uniform over classes.

    Attributes:
        num_classes: K.
    """

    num_classes: int

    def _set_classes(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.prior = Independent(Categorical(torch.ones(1, num_classes)), 1)

    @property
    @override
    def support(self) -> Constraint:
        return constraints.independent(constraints.integer_interval(0, self.num_classes - 1), 1)

    @property
    @override
    def theta_names(self) -> list[str]:
        return ["label"]

    @override
    def sample_prior(self, num_samples: int, generator: Generator) -> Tensor:
        return super().sample_prior(num_samples, generator).float()


class HalfMoons(Classification):
    """Two half circles of radius 1 that interleave, with Gaussian noise.

    As scikit-learn's `make_moons`, with the angle drawn uniformly instead of from a grid.

    Args:
        noise_std: Standard deviation of the noise, positive.
    """

    name = "half_moons"
    dim_x = 2

    def __init__(self, noise_std: float = 0.1) -> None:
        require_positive("task.noise_std", noise_std)
        self.noise_std = noise_std
        self._set_classes(2)

    @property
    @override
    def noise_norm(self) -> float:
        return self.noise_std * math.sqrt(math.pi / 2)  # mean of a Rayleigh variable

    @override
    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        angle = math.pi * torch.rand(len(theta), generator=generator)
        outer = torch.stack((angle.cos(), angle.sin()), -1)
        inner = torch.stack((1 - angle.cos(), 0.5 - angle.sin()), -1)
        noise = self.noise_std * torch.randn(len(theta), 2, generator=generator)
        return torch.where(theta == 0, outer, inner) + noise

    def plot(self, axes: Axes, x: Tensor, **style: Any) -> None:
        """Draw x `(2,)`, or samples `(S, 2)`, as points of the plane."""
        points = torch.as_tensor(x).detach().cpu().reshape(-1, 2)
        axes.plot(*points.T, **{"linestyle": "", "marker": "."} | style)
        axes.set_xlabel("x_1")
        axes.set_ylabel("x_2")


class LabelledImages(Classification, StoredImages):
    """Images x with pixels in [0, 1], and what each shows; what asks for more pairs than a part
    has gets all of them."""

    def _set_shape(self, shape: tuple[int, ...], num_classes: int) -> None:
        self._set_side(shape)
        self._set_classes(num_classes)

    @abstractmethod
    def part(self, split: str, seed: int) -> tuple[Tensor, Tensor]:
        """Return labels `(N,)` and images `(N, Dx)` of `train`, `validation` or `test`, in random
        order."""

    @override
    def stored_pairs(self, split: str, seed: int, rows: slice) -> tuple[Tensor, Tensor]:
        labels, x = self.part(split, seed)
        return labels[rows].unsqueeze(-1), x[rows]


class DigitLabels(LabelledImages):
    """The 1797 handwritten digits of 8 x 8 pixels that come with scikit-learn, split by seed."""

    name = "digits"

    def __init__(self) -> None:
        self._set_shape((8, 8), 10)

    @override
    def part(self, split: str, seed: int) -> tuple[Tensor, Tensor]:
        images, labels = bundled_digits(), bundled_labels()
        rows = torch.from_numpy(split_rows(len(images), SHARES, seed)[split])
        return labels[rows], images[rows]


class IDXLabels(LabelledImages):
    """Images and labels in the format of MNIST, in one folder: `train-images-idx3-ubyte`,
    `train-labels-idx1-ubyte`, and the same with `t10k`, plain or with `.gz`. The test pairs are
    those of `t10k`; the others are split by seed.

    Args:
        folder: Where the files are; their content is part of the identity.
        name: What the task is called in tables.
        num_classes: Number of classes K, at least 2.
    """

    def __init__(
        self,
        folder: Path | None = None,
        name: Literal["mnist", "fashion_mnist", "idx"] = "mnist",
        num_classes: int = 10,
    ) -> None:
        expected = "a folder with images and labels, such as train-images-idx3-ubyte and "
        expected += "train-labels-idx1-ubyte, or with .gz"
        require(folder is not None and folder.is_dir(), "task.folder", str(folder), expected)
        require(num_classes > 1, "task.num_classes", num_classes, "an integer of at least 2")
        assert folder is not None
        self.folder, self.name = folder, name
        parts = {part: self._read(part) for part in ("train", "t10k")}
        shapes = {tuple(images.shape[1:]) for _, images in parts.values()}
        require(len(shapes) == 1, "task.folder", str(folder), "one with images of equal size")
        highest = max(int(labels.max()) for labels, _ in parts.values())
        fewer = f"more than the highest label, {highest}"
        require(highest < num_classes, "task.num_classes", num_classes, fewer)
        self._set_shape(shapes.pop(), num_classes)

    def _read(self, part: str) -> tuple[Tensor, Tensor]:
        """Return labels `(N,)` and images `(N, H, W)` of `train` or `t10k`, bytes."""
        try:
            images, labels = (read(self.folder, part) for read in (idx_images, idx_labels))
            if len(images) != len(labels):
                raise ValueError(f"{part} has {len(images)} images and {len(labels)} labels.")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"task.folder={str(self.folder)!r} cannot be used: {error}"
            ) from error
        return torch.from_numpy(labels.copy()), torch.from_numpy(images.copy())

    @override
    def part(self, split: str, seed: int) -> tuple[Tensor, Tensor]:
        labels, images = self._read("t10k" if split == "test" else "train")
        shares = (("test", 1.0),) if split == "test" else SHARES[1:]
        rows = torch.from_numpy(split_rows(len(labels), shares, seed)[split])
        return labels[rows].float(), images[rows].float().flatten(1) / 255
