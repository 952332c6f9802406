"""Run folders of somebody else's: refused in one line; nothing is executed, nothing hangs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess

import pytest
import torch
import yaml

from robust_npe import cli
from robust_npe.commands import train
from tests.test_config import composed

SMALL = ("scale=smoke", "num_simulations=64", "training.max_epochs=1", "estimator=gaussian")
SECONDS = 60  # a refusal takes one; a hang would take for ever

COMMANDS = (
    {"_target_": "torch.utils.collect_env.run", "command": "touch pwned"},
    {"_target_": "os.system", "command": "touch pwned"},
    {"_target_": "subprocess.run", "args": ["touch", "pwned"]},
    {"_target_": "builtins.eval", "source": "open('pwned', 'w')"},
    {"_target_": "torch.load", "f": "pwned.pt", "weights_only": False},
    {"_target_": "torch.hub.load", "repo_or_dir": ".", "model": "pwned", "source": "local"},
    {"_target_": "torch.utils.cpp_extension.load_inline", "name": "pwned", "cpp_sources": ""},
    {"_target_": "torch.fx.graph_module._exec_with_source", "src": "open('pwned', 'w')"},
    {"_target_": "torch.distributed.run.main", "args": ["pwned.py"]},
    {"_target_": "robust_npe.files.write_atomically", "path": "pwned", "content": "x"},
    {"_target_": "robust_npe.store.artefacts.shutil.rmtree", "path": "outputs"},
    {"_target_": "robust_npe.store.simulations._simulate", "folder": "pwned"},
    {"_target_": "robust_npe.store.Store", "root": "pwned"},
    {"_target_": "robust_npe.consent.allow", "module": "pwned.py"},
    {"_target_": "robust_npe.components.build", "node": {}},
    {"_target_": "robust_npe.tasks.Task"},
    {"_target_": "pwned.Task"},
    {"_target_": "robust_npe.commands.train.pd.read_pickle", "path": "pwned.pkl"},
)
GROUPS = ("task", "estimator", "embedding", "defense")


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    output = tmp_path_factory.mktemp("honest")
    options = ("epsilon=1", "metric=[nll]", "plots=false", f"output_dir={output}")
    train.main(composed(*SMALL, *options))
    return output


@pytest.fixture
def run(honest, tmp_path, monkeypatch):
    """A run folder and its store, downloaded into a folder with files that must not run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    for name in ("pwned.py", "hubconf.py"):
        (tmp_path / name).write_text("open('pwned', 'w')\n")
    shutil.copytree(honest, tmp_path / "theirs")
    (folder,) = (tmp_path / "theirs" / "runs").iterdir()
    return folder


@pytest.fixture(autouse=True)
def no_hang():
    def stop(number, frame):
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def forge(folder, name, content):
    """Change a file, and its checksum as an attacker would."""
    path = folder / name
    path.unlink(missing_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("manifest_sha256", None)
    manifest["sha256"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def reconfigure(run, **changes):
    config = yaml.safe_load((run / "config.yaml").read_text())
    forge(run, "config.yaml", yaml.safe_dump(config | changes))


def refused(run, capsys, monkeypatch, *words):
    """Attack the run and return the line that says why not."""

    def executed(*args, **kwargs):
        raise AssertionError(f"executed {args}")

    monkeypatch.setattr(subprocess, "Popen", executed)
    monkeypatch.setattr(os, "system", executed)
    before = {p: p.lstat().st_mtime_ns for p in run.parent.parent.rglob("*")}
    status = cli.main(["attack", f"run={run}", "attack=noise", "epsilon=1", *words])
    message = capsys.readouterr().err
    assert status == 2
    *before_it, line = message.splitlines()
    assert line.startswith("robust-npe: ")
    assert all(info.startswith("found") for info in before_it)
    assert not (run.parents[2] / "pwned").exists()
    assert not (run.parents[2] / "outputs" / "store").exists()
    assert {p: p.lstat().st_mtime_ns for p in run.parent.parent.rglob("*")} == before
    return message


def test_an_honest_run_is_attacked(run, capsys):
    assert cli.main(["attack", f"run={run}", "attack=noise", "epsilon=1", "plots=false"]) == 0
    assert "NLL" in capsys.readouterr().out


@pytest.mark.parametrize("node", COMMANDS, ids=lambda node: node["_target_"])
def test_tasks_that_are_commands(run, node, capsys, monkeypatch):
    reconfigure(run, task=node)
    message = refused(run, capsys, monkeypatch)
    assert "task._target_" in message
    assert node["_target_"] in message


@pytest.mark.parametrize("group", GROUPS)
def test_commands_in_other_groups(run, group, capsys, monkeypatch):
    reconfigure(run, **{group: COMMANDS[0]})
    assert f"{group}._target_='torch.utils" in refused(run, capsys, monkeypatch)


def test_commands_deeper_in_the_configuration(run, capsys, monkeypatch):
    reconfigure(run, metrics={"nll": COMMANDS[0]})
    assert "metrics.nll._target_='torch.utils" in refused(run, capsys, monkeypatch)
    node = {"_target_": "robust_npe.tasks.GaussianLinear", "noise_std": COMMANDS[0]}
    reconfigure(run, metrics={}, task=node)
    assert "it must be a finite number" in refused(run, capsys, monkeypatch)
    hidden = {"_target_": "robust_npe.tasks.GaussianLinear", "slopes": [1.0, COMMANDS[0]]}
    reconfigure(run, task=hidden)
    assert "task.slopes[1]" in refused(run, capsys, monkeypatch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": 5}, "task=5 is not valid"),
        ({"evaluation": 5}, "evaluation=5 is not valid"),
        ({"training": [1]}, "training=[1] is not valid"),
        ({"num_simulations": 10**15}, "between 1 and 1e+09"),
        ({"seed": 10**30}, "an integer of 64 bits"),
        ({"seeds": {"data": "x"}}, "seeds.data='x'"),
        ({"metrics": "x" * 100}, "a section of keys"),
        ({"nonsense": 1}, "there is no key nonsense"),
        ({"task": {"_target_": "robust_npe.tasks.SIR"}}, "was made with other"),
    ],
)
def test_values_of_the_wrong_kind(run, change, message, capsys, monkeypatch):
    reconfigure(run, **change)
    assert message in refused(run, capsys, monkeypatch)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: ${oc.env:HOME}", "interpolation"),
        ("seed: ${oc.decode:'${oc.env:HOME}'}", "interpolation"),
        ("seed: !!python/object/apply:os.system ['touch pwned']", "tags"),
        ("a: &a [x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]", "anchors"),
        ("a: " + "[" * 5000, "levels"),
        ("a: " + "x" * 2**20, "bytes"),
        ("a: " + "x" * 20_000, "characters"),
        ("[1, 2]", "mapping"),
        ("a: [", "YAML"),
        ("", "mapping"),
        (b"\xff\xfe\x00", "configuration"),
        (b"a: \x00", "YAML"),
    ],
)
def test_configurations_that_are_none(run, text, message, capsys, monkeypatch):
    forge(run, "config.yaml", text)
    assert message in refused(run, capsys, monkeypatch)


def pipe(path):
    os.mkfifo(path)


def endless(path):
    path.symlink_to("/dev/zero")


def loop(path):
    path.symlink_to(path.name)


def folder(path):
    path.mkdir()


@pytest.mark.parametrize("name", ["config.yaml", "manifest.json"])
@pytest.mark.parametrize("make", [pipe, endless, loop, folder])
def test_files_that_are_no_plain_ones(run, name, make, capsys, monkeypatch):
    (run / name).unlink()
    make(run / name)
    message = refused(run, capsys, monkeypatch)
    assert name in message or "was not found" in message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"facts": {}}',
        " " * (2**24 + 1),
        '{"description": {}, "facts": {}, "created": "", "sha256": {"../../../pwned": ""}}',
        '{"description": {}, "facts": [], "created": "", "sha256": {}}',
    ],
)
def test_manifests_that_are_none(run, text, capsys, monkeypatch):
    (run / "manifest.json").write_text(text)
    assert "manifest" in refused(run, capsys, monkeypatch)


@pytest.mark.parametrize("key", ["../../runs", "/etc", "", None, ["a"], "0" * 16])
def test_estimators_that_are_elsewhere(run, key, capsys, monkeypatch):
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["manifest_sha256"]
    manifest["facts"]["estimators"] = [key]
    (run / "manifest.json").write_text(json.dumps(manifest))
    refused(run, capsys, monkeypatch)


class Pickled:
    def __reduce__(self):
        return open, ("pwned", "w")


def test_weights_that_are_pickles_or_endless_or_not_numbers(run, capsys, monkeypatch):
    from safetensors.torch import load_file, save

    (folder,) = (run.parent.parent / "store" / "estimators").iterdir()
    name = "weights.safetensors"
    weights = load_file(folder / name)
    torch.save(Pickled(), folder / "pickle")
    pickled = (folder / "pickle").read_bytes()
    (folder / "pickle").unlink()
    forge(folder, name, pickled)
    assert name in refused(run, capsys, monkeypatch)
    forge(folder, name, (2**62).to_bytes(8, "little") + b"{}")
    assert name in refused(run, capsys, monkeypatch)
    forge(folder, name, save({k: torch.full_like(v, torch.nan) for k, v in weights.items()}))
    assert "NaN" in refused(run, capsys, monkeypatch)
    forge(folder, name, save({k: v[:1].clone() for k, v in weights.items() if v.ndim}))
    assert name in refused(run, capsys, monkeypatch)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert "damaged" in refused(run, capsys, monkeypatch)
