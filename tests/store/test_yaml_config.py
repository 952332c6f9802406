from __future__ import annotations

import time

import pytest
from omegaconf import OmegaConf

from robust_npe.store import StoreError, read_yaml_config
from tests.test_config import composed
from tests.test_files import PLANTED, plant


def test_reads_what_runs_write(tmp_path):
    config = composed("task=pyloric", "defense=fim", "epsilon=[0.1,1e-3]")
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml(config, resolve=True))
    assert read_yaml_config(path) == OmegaConf.to_container(config, resolve=True)


def test_numbers_are_as_omegaconf_reads_them(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("a: 1e-3\nb: 1\nc: '1e-3'\nd: [1e5, null, true, x]\ne: {f: '???'}\n")
    assert read_yaml_config(path) == {
        "a": 0.001,
        "b": 1,
        "c": "1e-3",
        "d": [100000.0, None, True, "x"],
        "e": {"f": "???"},
    }


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9)
)

REFUSED = {
    "bomb": (BOMB, "anchors, aliases or tags"),
    "alias": ("a: &x 1\nb: *x\n", "anchors, aliases or tags"),
    "object": ("a: !!python/object/apply:os.getcwd []\n", "anchors, aliases or tags"),
    "interpolation": ("a: {b: ['x${oc.env:HOME}']}\n", "interpolation"),
    "interpolation as a key": ("${oc.env:HOME}: 1\n", "interpolation"),
    "deep": ("a: " + "[" * 1000 + "]" * 1000, "levels above 20"),
    "many": ("a:\n" + "- 1\n" * 20_000, "more than 10000 elements"),
    "long": ("a: " + "1:" * 300_000 + "1\n", "more than 10000 characters"),
    "list": ("- 1\n", "top level is not a mapping"),
    "text": ("hello\n", "top level is not a mapping"),
    "empty": ("", "top level is not a mapping"),
    "two documents": ("a: 1\n---\nb: 2\n", "not valid YAML"),
    "two equal keys": ("a: 1\na: 2\n", "not valid YAML"),
    "broken": ("a: [1\n", "not valid YAML"),
    "binary": (b"\xff\xfe\x00", "codec can't decode"),
    "large": ("# " + "x" * 2**20, "at most 1048576"),
    "huge number": ("a: " + "1" * 9000, "limit"),
    "key that is a list": ("? [a]\n: 1\n", "not valid YAML"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_anything_else_is_refused_at_once(tmp_path, content, message):
    path = tmp_path / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.process_time()
    with pytest.raises(StoreError, match=message) as failure:
        read_yaml_config(path)
    assert time.process_time() - start < 5
    assert str(path) in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("kind", PLANTED)
def test_only_plain_files_are_read(tmp_path, kind):
    path = tmp_path / "config.yaml"
    plant(path, kind)
    with pytest.raises(StoreError, match=f"{path} .*remove it"):
        read_yaml_config(path)
