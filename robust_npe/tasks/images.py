"""Images as a task: observations alone, without parameters that generated them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor
from torch.distributions import Independent, Normal
from typing_extensions import override

from robust_npe.checks import ConfigError, require, require_positive_integer
from robust_npe.random import draws_from, stream
from robust_npe.tasks.base import Task
from robust_npe.tasks.data import split_rows
from robust_npe.tasks.digits import bundled_digits, idx_images
from robust_npe.tasks.plots import draw_image
from robust_npe.tasks.reading import read_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SHARES", "DigitImages", "FolderImages", "IDXImages", "Images", "StoredImages"]

LEVELS = 17  # of grey of the digits
SHARES = (("test", 0.1), ("validation", 0.1))


class StoredImages(Task, ABC):
    """Common part of tasks whose x are stored images with pixels in [0, 1].

    Attributes:
        side: Height and width of an image.
    """

    side: tuple[int, int]

    def _set_side(self, shape: tuple[int, ...]) -> None:
        """Take the shape of an image, `(H, W)`, or of what ends in it."""
        self.side = shape[-2], shape[-1]
        self.dim_x = shape[-2] * shape[-1]

    @property
    def x_names(self) -> list[str]:
        """Row and column of each pixel."""
        height, width = self.side
        return [f"pixel({i},{j})" for i in range(height) for j in range(width)]

    @property
    def domain(self) -> tuple[Tensor, Tensor]:
        """Black and white."""
        return torch.zeros(self.dim_x), torch.ones(self.dim_x)

    @override
    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        raise NotImplementedError(f"task {self.name} has images, but no simulator")

    @override
    def knows(self, what: str) -> bool:
        return what != "simulate" and super().knows(what)

    def plot(self, axes: Axes, x: Tensor, **style: Any) -> None:
        """Draw the image x `(Dx,)`, or the mean of images `(S, Dx)`."""
        draw_image(axes, x, self.side, **{"cmap": "gray_r"} | style)


class Images(StoredImages):
    """Images x with pixels in [0, 1]. theta ~ N(0, I) are latent variables, see `Task.has_theta`.

    A subclass says where images come from. They are split by seed into parts for training,
    validation and test; what asks for more images than a part has gets all of them.
    """

    has_theta = False

    def __init__(self, latent: int, shape: tuple[int, ...]) -> None:
        require_positive_integer("task.latent", latent)
        self.latent = latent
        self.prior = Independent(Normal(torch.zeros(latent), torch.ones(latent)), 1)
        self._set_side(shape)

    @abstractmethod
    def part(self, split: str, seed: int) -> Tensor:
        """Return the images of `train`, `validation` or `test` in random order, `(N, Dx)`."""

    @override
    def stored_pairs(self, split: str, seed: int, rows: slice) -> tuple[Tensor, Tensor]:
        x = self.part(split, seed)[rows]
        with draws_from(stream(seed, "latent", split, rows.start or 0)):
            return self.prior.sample((len(x),)), x


class DigitImages(Images):
    """The 1797 handwritten digits of 8 x 8 pixels that come with scikit-learn.

    They have 17 levels of grey. A density on [0, 1] can grow without limit at such points, which
    trained encoders of great sensitivity, so that levels are spread evenly over [0, 1].

    References:
        Theis, van den Oord & Bethge (2016), "A note on the evaluation of generative models",
        https://arxiv.org/abs/1511.01844, section 3.1

    Args:
        latent: Number of latent variables.
        dequantize: Whether to spread a level k to (k + u) / 17, u uniform in [0, 1]; else k / 16.
    """

    name = "digits"

    def __init__(self, latent: int = 8, dequantize: bool = True) -> None:
        super().__init__(latent, (8, 8))
        self.dequantize = dequantize

    @override
    def part(self, split: str, seed: int) -> Tensor:
        images = bundled_digits()
        if self.dequantize:
            spread = torch.rand(images.shape, generator=stream(seed, "dequantize"))
            images = (images * (LEVELS - 1) + spread) / LEVELS
        return _part(images, split, seed)


class IDXImages(Images):
    """Images in the format of MNIST: `train-images-idx3-ubyte` and `t10k-images-idx3-ubyte`, plain
    or with `.gz`, in one folder. The test images are those of the second file.

    Args:
        folder: Where the files are; their content is part of the identity.
        name: What the task is called in tables.
        latent: Number of latent variables.
    """

    def __init__(
        self,
        folder: Path | None = None,
        name: Literal["mnist", "fashion_mnist", "idx"] = "mnist",
        latent: int = 10,
    ) -> None:
        expected = "a folder with train-images-idx3-ubyte and t10k-images-idx3-ubyte, or with .gz"
        folder = _folder(folder, expected)
        self.folder, self.name = folder, name
        shapes = {self._read(part).shape[1:] for part in ("train", "t10k")}
        require(len(shapes) == 1, "task.folder", str(folder), "one with images of equal size")
        super().__init__(latent, tuple(shapes.pop()))

    def _read(self, part: str) -> np.ndarray:
        try:
            return idx_images(self.folder, part)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"task.folder={str(self.folder)!r} cannot be used: {error}"
            ) from error

    @override
    def part(self, split: str, seed: int) -> Tensor:
        if split == "test":
            images = self._read("t10k")
            rows = torch.randperm(len(images), generator=stream(seed, "split", "test")).numpy()
            return _pixels(images[rows])
        images = self._read("train")
        return _pixels(images[split_rows(len(images), SHARES[1:], seed)[split]])


class FolderImages(Images):
    """Grey images of one's own: all npy files in a folder, in order of their names, each `(H, W)`
    or `(N, H, W)`, of real numbers from 0 to 1, or of whole ones from 0 to 255 or of 0 and 1 alone.

    Args:
        folder: Where the files are; their content is part of the identity.
        latent: Number of latent variables.
    """

    name = "folder"

    def __init__(self, folder: Path | None = None, latent: int = 10) -> None:
        expected = "a folder with npy files of images"
        folder = _folder(folder, expected)
        found = sorted(folder.glob("*.npy"))
        require(bool(found), "task.folder", str(folder), expected)
        self.folder = folder
        arrays = [_images(path) for path in found]
        shapes = {array.shape[1:] for array in arrays}
        expected = f"one with images of equal size, not {sorted(shapes)}"
        require(len(shapes) == 1, "task.folder", str(folder), expected)
        bright = any(array.dtype.kind in "iu" and array.max() > 1 for array in arrays)
        self._all = np.concatenate([_scaled(array, bright) for array in arrays])
        require(len(self._all) > 2, "task.folder", str(folder), "one with at least 3 images")
        super().__init__(latent, tuple(self._all.shape[1:]))

    @override
    def part(self, split: str, seed: int) -> Tensor:
        return _part(torch.from_numpy(self._all).flatten(1), split, seed)


def _folder(folder: Path | None, expected: str) -> Path:
    if folder is None:
        raise ConfigError(f"task.folder is not set: task.folder=<{expected}>.")
    require(folder.is_dir(), "task.folder", str(folder), expected)
    return folder


def _part(images: Tensor, split: str, seed: int) -> Tensor:
    return images[torch.from_numpy(split_rows(len(images), SHARES, seed)[split])]


def _pixels(images: np.ndarray) -> Tensor:
    """Return bytes `(N, H, W)` as numbers from 0 to 1, `(N, H W)`."""
    return torch.from_numpy(images.astype(np.float32) / 255).flatten(1)


def _images(path: Path) -> np.ndarray:
    """Return the images of an npy file, `(N, H, W)`."""
    array, _ = read_array(path, "x", "task.folder")
    is_colour = array.ndim > 2 and array.shape[-1] in (3, 4) and array.shape[-2] >= 8
    array = array[None] if array.ndim == 2 else array
    highest = 255 if array.dtype.kind in "iu" else 1
    if is_colour or array.ndim != 3 or not bool(((array >= 0) & (array <= highest)).all()):
        raise ConfigError(
            f"task.folder: {path} holds {array.dtype} of shape {array.shape}, between "
            f"{array.min():g} and {array.max():g}, expected grey images (H, W) or (N, H, W) of "
            "whole numbers from 0 to 255 or of real ones from 0 to 1"
            + (": average the colours first." if is_colour else ".")
        )
    return array


def _scaled(images: np.ndarray, bright: bool) -> np.ndarray:
    """Return images as float32 from 0 to 1: whole numbers are divided by 255 if some are `bright`,
    masks of 0 and 1 are not."""
    highest = 255 if images.dtype.kind in "iu" and bright else 1
    return np.asarray(images, dtype=np.float32) / highest
