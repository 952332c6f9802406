"""Arguments of the tasks that are a user's own; no tests here."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

from robust_npe import consent

SIMULATOR = Path(__file__).with_name("own_simulator.py")


def own_settings(task, folder, monkeypatch):
    """What `task=<name>` needs beside its YAML file; nothing for our own tasks.

    Args:
        task: Name of the task.
        folder: Where its files go.
        monkeypatch: Takes the consent back.
    """
    if task == "function":
        monkeypatch.setenv(consent.VARIABLE, str(SIMULATOR))
        names = ("simulator", "prior", "log_likelihood", "noise_std", "theta_names")
        given = dict(zip(names, ("simulate", *names[1:]), strict=True))
        return {key: f"own_simulator:{name}" for key, name in given.items()}
    if task == "files":
        theta, x = folder / "theta.npy", folder / "x.npy"
        generator = np.random.default_rng(0)
        parameters = generator.uniform(-1, 1, (300, 2))
        np.save(theta, parameters)
        np.save(x, parameters @ np.ones((2, 3)) + generator.normal(size=(300, 3)))
        return {"theta": str(theta), "x": str(x), "low": [-1, -1], "high": [1, 1]}
    if task in ("images/mnist", "images/fashion_mnist"):
        write_idx(folder / "train-images-idx3-ubyte", 300)
        write_idx(folder / "t10k-images-idx3-ubyte.gz", 20)
        return {"folder": str(folder)}
    if task in ("classification/mnist", "classification/fashion_mnist"):
        for part, num in (("train", 300), ("t10k", 20)):
            write_idx(folder / f"{part}-images-idx3-ubyte", num)
            write_labels(folder / f"{part}-labels-idx1-ubyte", num)
        return {"folder": str(folder)}
    if task == "images/folder":
        images = np.random.default_rng(0).integers(0, 256, (300, 5, 4), dtype=np.uint8)
        np.save(folder / "a.npy", images[:100])
        np.save(folder / "b.npy", images[100:])
        return {"folder": str(folder)}
    return {}


def write_idx(path, num, side=6):
    """Write images in the format of MNIST, packed where the name ends in .gz; return them."""
    images = np.random.default_rng(num).integers(0, 256, (num, side, side), dtype=np.uint8)
    content = struct.pack(">4i", 2051, num, side, side) + images.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return images


def write_labels(path, num):
    """Write labels in the format of MNIST; return them."""
    labels = np.random.default_rng(num).integers(0, 10, num, dtype=np.uint8)
    path.write_bytes(struct.pack(">2i", 2049, num) + labels.tobytes())
    return labels
