"""Labels and what they belong to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robust_npe.checks import ConfigError
from robust_npe.random import stream
from robust_npe.tasks import DigitLabels, HalfMoons, IDXLabels
from tests.own import write_idx, write_labels


@pytest.fixture
def folder(tmp_path):
    for part, num in (("train", 300), ("t10k", 20)):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", num)
        write_labels(tmp_path / f"{part}-labels-idx1-ubyte", num)
    return tmp_path


def test_half_moons_are_two_half_circles_with_noise():
    task = HalfMoons(noise_std=0.05)
    theta = task.sample_prior(4000, stream(0))
    x = task.simulate(theta, stream(1))
    label = theta.squeeze(-1)
    assert float(label.mean()) == pytest.approx(0.5, abs=0.03)
    centre = torch.tensor([[0.0, 0.0], [1.0, 0.5]])[label.long()]
    off = (x - centre).norm(dim=1) - 1
    assert float(off.mean()) == pytest.approx(0, abs=0.01)
    assert float(off.std()) == pytest.approx(0.05, rel=0.1)
    upper = (x - centre)[:, 1] * (1 - 2 * label) > -0.2
    assert upper.all()
    noise = 0.05 * torch.randn(4000, 2, generator=stream(2))
    assert task.noise_norm == pytest.approx(float(noise.norm(dim=1).mean()), rel=0.03)


def test_digits_and_their_labels_belong_together():
    task = DigitLabels()
    parts = {split: task.part(split, seed=0) for split in ("train", "test")}
    (y, x), (own, at) = parts["train"], parts["test"]
    nearest = y[torch.cdist(at, x).argmin(1)]
    assert float((nearest == own).double().mean()) > 0.95
    assert float(torch.cdist(at, x).amin()) > 0  # no image is in both
    theta, first = task.stored_pairs("test", 0, slice(0, 7))
    assert torch.equal(theta, own[:7].unsqueeze(-1))
    assert torch.equal(first, at[:7])


def test_images_of_idx_files_keep_their_labels_when_they_are_split(folder):
    images = write_idx(folder / "train-images-idx3-ubyte.gz", 300).reshape(300, -1)
    labels = write_labels(folder / "train-labels-idx1-ubyte", 300)
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    task = IDXLabels(folder)
    seen = []
    for split in ("train", "validation"):
        y, x = task.part(split, seed=3)
        raw = (x * 255).round().numpy().astype(np.uint8)
        seen += [row.tobytes() for row in raw]
        assert [known[row.tobytes()] for row in raw] == y.int().tolist()
    assert sorted(seen) == sorted(known)
    assert len(task.part("test", seed=3)[0]) == 20


def test_what_does_not_belong_together_is_refused(folder):
    with pytest.raises(ConfigError, match=r"task\.num_classes=4 .* highest label, 9"):
        IDXLabels(folder, num_classes=4)
    write_labels(folder / "train-labels-idx1-ubyte", 299)
    with pytest.raises(ConfigError, match="300 images and 299 labels"):
        IDXLabels(folder)
    (folder / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x03" + bytes(12))
    with pytest.raises(ConfigError, match="not an IDX file of labels"):
        IDXLabels(folder)
