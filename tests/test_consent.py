"""Own code: by the user's consent alone, never because a file says so."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest

from robust_npe import consent
from robust_npe.checks import ConfigError
from robust_npe.components import build, complete, describe
from robust_npe.tasks.base import Task

CODE = """
import torch
from pathlib import Path
from robust_npe.tasks import Task

Path({proof!r}).touch()

class Own(Task):
    name = "own"
    dim_x = 1
    def __init__(self, scale: float = {scale}) -> None:
        self.scale = scale
        self.prior = torch.distributions.Independent(
            torch.distributions.Normal(torch.zeros(1), torch.ones(1)), 1)
    def simulate(self, theta, generator):
        return self.scale * theta
"""
NODE = {"_target_": "own_tasks.Own"}


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setenv(consent.VARIABLE, "")
    file, proof = tmp_path / "own_tasks.py", tmp_path / "imported"
    file.write_text(CODE.format(proof=str(proof), scale=2.0))
    yield file, proof
    forget()
    consent._plugins.cache_clear()


def test_without_consent_nothing_is_imported_and_the_message_says_what_to_do(own, monkeypatch):
    file, proof = own
    monkeypatch.syspath_prepend(file.parent)
    with pytest.raises(ConfigError, match=r"task._target_='own_tasks.Own'.*--module own_tasks.py"):
        build(NODE, "task", Task)
    assert complete(NODE) == NODE
    assert not proof.exists()


def test_a_file_that_is_handed_over_is_known_by_its_stem(own):
    file, _ = own
    consent.allow(str(file))
    assert build(NODE, "task", Task).scale == 2.0
    assert complete(NODE) == NODE | {"scale": 2.0}


def test_processes_that_are_started_inherit_consent(own, monkeypatch):
    file, _ = own
    consent.allow(str(file))
    inherited = consent.os.environ[consent.VARIABLE]
    consent._load.cache_clear()
    del sys.modules["own_tasks"]
    monkeypatch.setenv(consent.VARIABLE, inherited)
    assert build(NODE, "task", Task).name == "own"


def forget():
    for name in ("own_tasks", "own_base", "own_child"):
        sys.modules.pop(name, None)
    consent._load.cache_clear()
    consent._digest.cache_clear()


def test_the_code_that_runs_is_part_of_the_identity(own):
    file, _ = own
    consent.allow(str(file))
    first = describe(NODE, "task", Task)
    assert first["class"] == "own_tasks.Own"
    assert set(first["sources"]) == {"own_tasks"}
    file.write_text(file.read_text() + "\n# changed\n")
    assert describe(NODE, "task", Task) == first  # another process has to run what was written
    forget()
    consent.allow(str(file))
    assert describe(NODE, "task", Task)["sources"] != first["sources"]


def test_the_code_of_base_classes_counts_too(own):
    file, _ = own
    base, child = file.with_name("own_base.py"), file.with_name("own_child.py")
    base.write_text(file.read_text())
    child.write_text("from own_base import Own\n\nclass Child(Own):\n    pass\n")
    node = {"_target_": "own_child.Child"}

    def described():
        forget()
        consent.allow(str(base))
        consent.allow(str(child))
        return describe(node, "task", Task)["sources"]

    first = described()
    assert set(first) == {"own_base", "own_child"}
    base.write_text(base.read_text() + "\n# changed\n")
    second = described()
    assert second["own_base"] != first["own_base"]
    assert second["own_child"] == first["own_child"]


def test_files_in_the_variable_may_be_relative(own, monkeypatch):
    file, _ = own
    monkeypatch.chdir(file.parent)
    monkeypatch.syspath_prepend(file.parent)
    monkeypatch.setenv(consent.VARIABLE, "own_tasks.py")
    assert build(NODE, "task", Task).name == "own"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("scale: float = 2.0", "scale=2.0", "task.scale has no annotation in Own"),
        ("scale: float", "scale: 'Unknown'", "annotations of Own cannot be read: name 'Unknown'"),
        ('    name = "own"\n', "", "a class with a name"),
    ],
)
def test_classes_that_lack_something_are_named(own, old, new, message):
    file, _ = own
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    consent.allow(str(file))
    with pytest.raises(ConfigError, match=message):
        build({**NODE, "scale": 1.0}, "task", Task)


def test_an_installed_plugin_is_consent(own, monkeypatch):
    file, _ = own
    monkeypatch.syspath_prepend(file.parent)
    point = EntryPoint("own", "own_tasks", consent.GROUP)
    monkeypatch.setattr(consent, "entry_points", lambda group: [point])
    consent._plugins.cache_clear()
    assert build(NODE, "task", Task).name == "own"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nowhere.py", None, "there is no such file"),
        ("torch.py", "", "a module 'torch' exists already"),
        ("not-a-name.py", "", "not a name for a module"),
        ("broken.py", "1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("broken2.py", "def", "cannot be imported: SyntaxError"),
    ],
)
def test_what_cannot_be_imported_is_named(own, tmp_path, name, content, message):
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=message) as raised:
        consent.allow(str(file))
    assert "\n" not in str(raised.value)
    assert file.stem == "torch" or file.stem not in sys.modules


def test_a_dotted_name_is_an_importable_module(own, monkeypatch):
    file, _ = own
    monkeypatch.syspath_prepend(file.parent)
    consent.allow("own_tasks")
    assert build(NODE, "task", Task).name == "own"
    with pytest.raises(ConfigError, match=r"--module no\.such\.thing cannot be imported"):
        consent.allow("no.such.thing")
