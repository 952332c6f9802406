import os
import socket
from pathlib import Path

import pytest

from robust_npe.checks import ConfigError
from robust_npe.files import plain_file


def test_a_plain_file_is_opened_through_links_too(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    (tmp_path / "link").symlink_to(path)
    for name in (path, str(path), tmp_path / "link"):
        with plain_file(name, "task.file", 5) as file:
            assert file.read() == b"12345"


def test_what_is_no_plain_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.path.relpath(tmp_path / "socket"))  # absolute names may be too long
    with server:
        for name in (tmp_path, tmp_path / "pipe", tmp_path / "link", tmp_path / "socket"):
            with pytest.raises(ConfigError, match=r"^task\.file='.*\.$") as error:
                plain_file(name, "task.file", 5)
            assert str(name) in str(error.value)


def test_missing_unnameable_and_large_files_are_refused(tmp_path):
    (tmp_path / "large").write_bytes(b"123456")
    with pytest.raises(ConfigError, match=r"large' .* at most 5 bytes .*has 6 bytes"):
        plain_file(tmp_path / "large", "task.file", 5)
    with pytest.raises(ConfigError, match=r"none' .*No such file"):
        plain_file(tmp_path / "none", "task.file", 5)
    with pytest.raises(ConfigError, match="null"):
        plain_file("a\0b", "task.file", 5)


def test_a_refused_file_is_closed_again(tmp_path):
    before = len(list(Path("/dev/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(ConfigError):
            plain_file(tmp_path, "task.file", 5)
    assert len(list(Path("/dev/fd").iterdir())) == before
