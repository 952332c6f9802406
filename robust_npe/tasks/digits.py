"""Images of handwritten digits: scikit-learn's bundled 8 x 8 ones, or MNIST from IDX files."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["bundled_digits", "mnist_digits"]

MNIST_FILE = "train-images-idx3-ubyte"
IDX_MAGIC = 2051  # unsigned bytes in three dimensions


def bundled_digits() -> Tensor:
    """Return the 1797 digits of 8 x 8 pixels in scikit-learn: float32 in [0, 1], `(1797, 64)`."""
    from sklearn.datasets import load_digits  # slow to import, and only needed for training

    return torch.from_numpy(load_digits().data.astype(np.float32) / 16)


def mnist_digits(folder: str | Path) -> Tensor:
    """Read the MNIST training images: float32 in [0, 1], `(60000, 784)`.

    Args:
        folder: Where `train-images-idx3-ubyte` lies, or the same with `.gz`.

    Raises:
        FileNotFoundError: If neither file is there.
        ValueError: If the file is not in the IDX format.
    """
    folder = Path(folder)
    plain, packed = folder / MNIST_FILE, folder / f"{MNIST_FILE}.gz"
    if plain.is_file():
        content = plain.read_bytes()
    elif packed.is_file():
        content = gzip.decompress(packed.read_bytes())
    else:
        raise FileNotFoundError(
            f"no MNIST images in {str(folder)!r}: expected the file {MNIST_FILE} or "
            f"{MNIST_FILE}.gz (the training images of MNIST in the IDX format). Download it and "
            "give the folder that holds it, or use the bundled 8 x 8 digits."
        )
    return _parse_idx(content, plain)


def _parse_idx(content: bytes, path: Path) -> Tensor:
    header = np.frombuffer(content[:16], dtype=">i4")
    if len(header) < 4 or header[0] != IDX_MAGIC or len(content) != 16 + np.prod(header[1:]):
        raise ValueError(
            f"{path} is not an IDX file of images: it must begin with the number {IDX_MAGIC}, the "
            "number of images, rows and columns, and hold one byte for each pixel."
        )
    pixels = np.frombuffer(content, dtype=np.uint8, offset=16).reshape(header[1], -1)
    return torch.from_numpy(pixels.astype(np.float32) / 255)
