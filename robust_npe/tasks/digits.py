"""Images of handwritten digits: scikit-learn's bundled 8 x 8 ones, or MNIST from IDX files."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["bundled_digits", "idx_images", "mnist_digits"]

IDX_MAGIC = 2051  # unsigned bytes in three dimensions
MAX_BYTES = 2**30  # of an unpacked file; MNIST has 47 million


def bundled_digits() -> Tensor:
    """Return the 1797 digits of 8 x 8 pixels in scikit-learn: float32 in [0, 1], `(1797, 64)`."""
    from sklearn.datasets import load_digits  # slow to import, and only needed for training

    return torch.from_numpy(load_digits().data.astype(np.float32) / 16)


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
    name = f"{part}-images-idx3-ubyte"
    plain = Path(folder) / name
    packed = plain.with_name(f"{name}.gz")
    if plain.is_file():
        content = plain.read_bytes()
    elif packed.is_file():
        content = _unpacked(packed)
    else:
        raise FileNotFoundError(
            f"no images in {str(folder)!r}: expected the file {name} or {name}.gz (images of MNIST "
            "in the IDX format). Download it and give the folder that holds it, or use the bundled "
            "8 x 8 digits."
        )
    header = np.frombuffer(content[:16], dtype=">i4")
    if len(header) < 4 or header[0] != IDX_MAGIC or len(content) != 16 + np.prod(header[1:]):
        raise ValueError(
            f"{plain} is not an IDX file of images: it must begin with the number {IDX_MAGIC}, the "
            "number of images, rows and columns, and hold one byte for each pixel."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=16).reshape(header[1:])


def _unpacked(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            content = file.read(MAX_BYTES + 1)
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path} holds more than {MAX_BYTES} bytes.")
    return content
