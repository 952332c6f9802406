from __future__ import annotations

import numpy as np
import pytest

from robust_npe.store import CorruptArtefactError, StoreError, part
from robust_npe.store.parts import read_part

ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "n": np.array(7), "text": "row"}


def test_a_part_is_made_once(tmp_path):
    path = tmp_path / "parts" / "one.npz"
    made = part(path, lambda: ARRAYS)
    again = part(path, None)  # calling it would fail
    for found in (made, again):
        np.testing.assert_array_equal(found["a"], ARRAYS["a"])
        assert int(found["n"]) == 7
        assert str(found["text"]) == "row"
    assert list(path.parent.iterdir()) == [path]


def test_a_part_that_was_not_finished_is_not_there(tmp_path):
    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        part(tmp_path / "one.npz", fail)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["empty", "cut off", "flipped byte", "pickle"])
def test_a_damaged_part_is_made_again(tmp_path, damage, caplog):
    path = tmp_path / "one.npz"
    part(path, lambda: ARRAYS)
    content = path.read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped byte":
        position = content.index(np.float64(5).tobytes())
        path.write_bytes(content[:position] + b"x" + content[position + 1 :])
    else:
        np.savez(path, a=np.array([object()]))
    with pytest.raises(CorruptArtefactError, match=r"one\.npz is damaged"):
        read_part(path)
    np.testing.assert_array_equal(part(path, lambda: ARRAYS)["a"], ARRAYS["a"])
    assert "made again" in caplog.text
    np.testing.assert_array_equal(read_part(path)["a"], ARRAYS["a"])


def test_a_planted_link_is_not_read(tmp_path):
    part(tmp_path / "other.npz", lambda: ARRAYS)
    (tmp_path / "one.npz").symlink_to(tmp_path / "other.npz")
    with pytest.raises(StoreError, match=r"one\.npz .*remove it"):
        part(tmp_path / "one.npz", lambda: ARRAYS)
