"""Images: where they come from, how they are split, and what they are refused for."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import torch

from robust_npe.checks import ConfigError
from robust_npe.components import describe
from robust_npe.tasks import DigitImages, FolderImages, IDXImages, Task
from robust_npe.tasks.digits import bundled_digits
from tests.own import write_idx


def rows_of(images):
    return {row.numpy().tobytes() for row in images}


def whole(task, seed=0):
    return {split: task.part(split, seed) for split in ("train", "validation", "test")}


def test_digits_are_split_without_overlap_and_spread_over_their_levels():
    plain, spread = (whole(DigitImages(dequantize=flag)) for flag in (False, True))
    assert rows_of(torch.cat([*plain.values()])) == rows_of(bundled_digits())
    assert [len(part) for part in plain.values()] == [1437, 180, 180]
    for split, x in spread.items():
        levels = (17 * x).floor() / 16
        assert torch.equal(levels, plain[split])
        assert float((17 * x - 16 * levels).std()) == pytest.approx(12**-0.5, rel=0.02)
    assert not torch.equal(plain["test"], DigitImages(dequantize=False).part("test", 1))


def test_latents_are_drawn_from_the_prior_and_images_do_not_depend_on_how_many_are_asked_for():
    task = DigitImages(3)
    theta, x = task.stored_pairs("train", 0, slice(0, 5000))
    assert theta.shape == (1437, 3)
    assert theta.std() == pytest.approx(1, abs=0.05)
    assert torch.equal(task.stored_pairs("train", 0, slice(0, 10))[1], x[:10])
    assert not task.has_theta
    with pytest.raises(NotImplementedError, match="no simulator"):
        task.simulate(theta, torch.Generator())


def test_idx_files_plain_and_packed(tmp_path):
    (tmp_path / "packed").mkdir()
    for folder, suffix in ((tmp_path, ""), (tmp_path / "packed", ".gz")):
        train = write_idx(folder / f"train-images-idx3-ubyte{suffix}", 90)
        test = write_idx(folder / f"t10k-images-idx3-ubyte{suffix}", 20)
    plain, packed = (whole(IDXImages(folder)) for folder in (tmp_path, tmp_path / "packed"))
    assert all(torch.equal(plain[split], packed[split]) for split in plain)
    flat = {
        name: torch.from_numpy(a / np.float32(255)).flatten(1)
        for name, a in (("train", train), ("test", test))
    }
    assert rows_of(plain["test"]) == rows_of(flat["test"])
    assert rows_of(torch.cat((plain["train"], plain["validation"]))) == rows_of(flat["train"])
    assert (len(plain["validation"]), plain["train"].shape[1]) == (9, 36)


@pytest.mark.parametrize("damage", ["cut", "noise", "missing"])
def test_damaged_idx_files(tmp_path, damage):
    for part in ("train", "t10k"):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", 20)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-30] if damage == "cut" else gzip.compress(content))
    with pytest.raises(ConfigError, match=r"^task.folder=.* cannot be used: .*t10k-images-idx3"):
        IDXImages(tmp_path)


def test_the_content_of_a_folder_is_part_of_the_identity(tmp_path):
    def described():
        node = {"_target_": "robust_npe.tasks.FolderImages", "folder": str(tmp_path)}
        return describe(node, "task", Task)

    np.save(tmp_path / "a.npy", np.zeros((4, 3, 3)))
    before = described()
    assert described() == before
    np.save(tmp_path / "a.npy", np.ones((4, 3, 3)))
    changed = described()
    assert changed != before
    (tmp_path / "a.npy").rename(tmp_path / "b.npy")
    assert described() not in (before, changed)


def test_images_of_ones_own(tmp_path):
    whole_numbers = np.random.default_rng(0).integers(0, 256, (7, 4, 5), dtype=np.uint8)
    np.save(tmp_path / "b.npy", whole_numbers)
    np.save(tmp_path / "a.npy", whole_numbers[0] / 255)
    task = FolderImages(tmp_path)
    assert (task.side, task.dim_x) == ((4, 5), 20)
    parts = torch.cat([*whole(task).values()])
    assert len(parts) == 8
    assert float(parts.max()) <= 1
    assert len(rows_of(parts)) == 7  # one of them twice


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((4, 3, 3), 1.5), "real ones from 0 to 1"),
        (np.full((4, 3, 3), 300), "whole numbers from 0 to 255"),
        (np.zeros(5), r"shape \(5,\)"),
        (np.zeros((2, 3, 3)), "at least 3 images"),
        (np.zeros((8, 8, 3)), "grey images .*average the colours"),
        (np.zeros((5, 8, 8, 3)), "grey images .*average the colours"),
    ],
)
def test_arrays_that_are_no_images(array, message, tmp_path):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ConfigError, match=message):
        FolderImages(tmp_path)


def test_masks_of_zero_and_one_are_black_and_white(tmp_path):
    masks = np.eye(5, dtype=np.uint8)[None].repeat(6, 0)
    np.save(tmp_path / "a.npy", masks)
    parts = torch.cat([*whole(FolderImages(tmp_path)).values()])
    torch.testing.assert_close(parts, torch.eye(5).flatten().expand(6, -1))
    np.save(tmp_path / "b.npy", 255 * masks)  # then ones of the first file are nearly black
    parts = torch.cat([*whole(FolderImages(tmp_path)).values()])
    assert set(parts.unique().tolist()) == {0.0, float(torch.tensor(1 / 255)), 1.0}


def test_folders_that_are_not_there(tmp_path):
    with pytest.raises(
        ConfigError, match=r"task.folder is not set: task.folder=<a folder with npy files"
    ):
        FolderImages()
    with pytest.raises(ConfigError, match=r"task.folder=.* a folder with train-images"):
        IDXImages(tmp_path / "none")
    np.save(tmp_path / "a.npy", np.zeros((4, 3, 3)))
    np.save(tmp_path / "b.npy", np.zeros((4, 3, 4)))
    with pytest.raises(ConfigError, match="equal size"):
        FolderImages(tmp_path)
    with pytest.raises(ConfigError, match=r"task\.latent=0"):
        DigitImages(0)
