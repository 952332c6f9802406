"""Images of handwritten digits: scikit-learn's bundled 8 x 8 ones, or MNIST from IDX files."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["bundled_digits", "bundled_labels", "idx_images", "idx_labels", "mnist_digits"]

IDX_MAGIC = 2048  # unsigned bytes; plus the number of dimensions
MAX_BYTES = 2**30  # of an unpacked file; MNIST has 47 million


def bundled_digits() -> Tensor:
    """Return the 1797 digits of 8 x 8 pixels in scikit-learn: float32 in [0, 1], `(1797, 64)`."""
    from sklearn.datasets import load_digits  # slow to import, and only needed for training

    return torch.from_numpy(load_digits().data.astype(np.float32) / 16)


def bundled_labels() -> Tensor:
    """Return what these show: float32, 0 to 9, `(1797,)`."""
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits().target.astype(np.float32))


def mnist_digits(folder: str | Path) -> Tensor:
    """Read the MNIST training images: float32 in [0, 1], `(60000, 784)`; errors as `idx_images`."""
    images = idx_images(folder, "train")
    return torch.from_numpy(images.astype(np.float32) / 255).flatten(1)


def idx_images(folder: str | Path, part: str) -> np.ndarray:
    """Read the images `<part>-images-idx3-ubyte`, plain or with `.gz`: bytes `(N, H, W)`.

    Args:
        folder: Where the file lies.
        part: `train` or `t10k`.

    Raises:
        FileNotFoundError: If neither file is there.
        ValueError: If the file is not in the IDX format.
    """
    return _idx(Path(folder), f"{part}-images-idx3-ubyte", "images")


def idx_labels(folder: str | Path, part: str) -> np.ndarray:
    """Read the labels `<part>-labels-idx1-ubyte`: bytes `(N,)`; otherwise as `idx_images`."""
    return _idx(Path(folder), f"{part}-labels-idx1-ubyte", "labels")


HEADERS = {
    "images": "the numbers of images (at least one), rows and columns, then a byte for each pixel",
    "labels": "the number of labels (at least one), then a byte for each",
}


def _idx(folder: Path, name: str, what: str) -> np.ndarray:
    """Read one file, whose name tells the number of dimensions."""
    dimensions = int(name[name.index("-idx") + 4])
    plain = folder / name
    packed = plain.with_name(f"{name}.gz")
    if plain.is_file():
        content = plain.read_bytes()
    elif packed.is_file():
        content = _unpacked(packed)
    else:
        raise FileNotFoundError(
            f"no {what} in {str(folder)!r}: expected the file {name} or {name}.gz ({what} of MNIST "
            "in the IDX format). Download it and give the folder that holds it, or use the bundled "
            "8 x 8 digits."
        )
    start, magic = 4 + 4 * dimensions, IDX_MAGIC + dimensions
    header = np.frombuffer(content[:start], dtype=">i4") if len(content) >= start else np.zeros(1)
    if header[0] != magic or header[1] < 1 or len(content) != start + np.prod(header[1:]):
        raise ValueError(
            f"{plain} is not an IDX file of {what}: it must begin with the number {magic}, "
            f"{HEADERS[what]}."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(header[1:])


def _unpacked(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            content = file.read(MAX_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path} holds more than {MAX_BYTES} bytes.")
    return content
