from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path

import pytest

from robust_npe.files import (
    StoreError,
    open_plain,
    read_plain,
    refuse_links,
    require_space,
    write_atomically,
)


def plant(path, kind):
    """Put something in the place of a file that would hang, fill the memory, or lead elsewhere."""
    if kind == "link":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(10**10)  # takes no space


PLANTED = ("link", "pipe", "folder", "huge")


@pytest.mark.parametrize("kind", PLANTED)
def test_only_plain_files_of_bounded_size_are_read(tmp_path, kind):
    path = tmp_path / "file"
    plant(path, kind)
    with pytest.raises(StoreError, match=f"{path} .*remove it") as failure:
        read_plain(path, "manifest", 1000)
    assert "\n" not in str(failure.value)


def test_plain_files_are_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"text")
    assert read_plain(path, "manifest", 4) == b"text"
    with open_plain(path, "manifest") as file:
        assert file.read() == b"text"
    with pytest.raises(StoreError, match=r"has 4 bytes; a manifest has at most 3"):
        read_plain(path, "manifest", 3)
    with pytest.raises(StoreError, match="No such file"):
        read_plain(tmp_path / "other", "manifest", 3)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "new" / "file"
    write_atomically(path, b"old")

    def half(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StoreError, match=f"{path} .*No space left on device.*Free some space"):
        write_atomically(path, half)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_link_is_replaced_not_written_through(tmp_path):
    outside, path = tmp_path / "outside", tmp_path / "file"
    outside.write_text("kept")
    path.symlink_to(outside)
    write_atomically(path, b"new")
    assert outside.read_text() == "kept"
    assert path.read_bytes() == b"new"


def write_often(path, letter):
    for _ in range(100):
        write_atomically(path, lambda file: [file.write(letter) for _ in range(1000)])
        assert path.read_bytes() in (b"a" * 1000, b"b" * 1000)


def test_several_processes_write_the_same_file(tmp_path):
    context = multiprocessing.get_context("fork")
    path = tmp_path / "file"
    processes = [context.Process(target=write_often, args=(path, c)) for c in (b"a", b"b")]
    for p in processes:
        p.start()
    for p in processes:
        p.join()
    assert [p.exitcode for p in processes] == [0, 0]
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_named():
    path = Path("/dev/null/file")
    with pytest.raises(StoreError, match=f"{path} cannot be written.*another output_dir"):
        write_atomically(path, b"")


def test_links_below_a_folder_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    refuse_links(tmp_path)
    (tmp_path / "a" / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="a/link is a symbolic link"):
        refuse_links(tmp_path)


def test_space_is_checked(tmp_path):
    require_space(tmp_path, 1)
    with pytest.raises(StoreError, match=r"needs 1e\+09 GB, but .* GB are free"):
        require_space(tmp_path, 10**18)
