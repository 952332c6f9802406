"""The pages about one's own simulator and data: their files are written, their commands run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest

from robust_npe import cli
from robust_npe.auditing import AuditSettings
from robust_npe.random import draws_from, stream
from robust_npe.training import train
from tests.test_contributing import BLOCK, ROOT

SMALL = ("scale=smoke", "num_simulations=300", "training.max_epochs=1", "plots=false")
TASKS = {
    "own-simulator.md": ["sim:simulate", "pendulum:simulate"],
    "own-data.md": ["x.npy", "sets.npz"],
}


def run(folder, *words):
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ROBUST_NPE_MODULES": ""},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("page", TASKS)
def test_commands_and_files_of_a_page_work(page, tmp_path):
    text = (ROOT / "docs" / page).read_text()
    for name, content in BLOCK.findall(text):
        (tmp_path / name).write_text(content)
        if name.startswith("make"):
            assert run(tmp_path, name).returncode == 0
    commands = re.findall(r"^robust-npe (.*)$", text, re.MULTILINE)
    assert len(commands) == 2
    said = ""
    for command in commands:
        done = run(tmp_path, "-m", "robust_npe.cli", *shlex.split(command), *SMALL)
        assert done.returncode == 0, done.stderr
        said += done.stderr
    tables = [pd.read_csv(path) for path in tmp_path.glob("outputs/runs/*/results.csv")]
    assert sorted(table.task[0] for table in tables) == sorted(TASKS[page])
    assert all((table.metric == "kl_forward").any() for table in tables)
    rules = {"own-simulator.md": "two simulations at the same theta", "own-data.md": "neighbours"}
    assert re.search(f"epsilon_unit=auto is the median distance of .*{rules[page]}", said)


@pytest.mark.parametrize("page", TASKS)
def test_python_of_a_page_runs(page, monkeypatch, capsys):
    def train_shortly(*args):
        *given, settings, generator = args
        return train(*given, replace(settings, max_epochs=2, min_epochs=1), generator)

    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.M | re.S)
    small = blocks[-1].replace("10_000", "400")
    assert small != blocks[-1]
    monkeypatch.setattr("robust_npe.api._train", train_shortly)
    exec(compile(small, page, "exec"), {})
    assert float(re.search(r"[\d.]+", capsys.readouterr().out)[0]) > 0


def test_commands_of_the_page_about_audits_work(tmp_path):
    text = (ROOT / "docs" / "audit.md").read_text()
    for name, content in re.findall(r"^`([\w.]+)`\n```\w+\n(.*?)^```", text, re.M | re.S):
        (tmp_path / name).write_text(content.replace("range(300)", "range(30)"))
    assert run(tmp_path, "make_q.py").returncode == 0
    training, *audits = re.findall(r"^robust-npe (.*)$", text, re.MULTILINE)
    done = run(tmp_path, "-m", "robust_npe.cli", *shlex.split(training), *SMALL)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    quick = (
        "attack=fgsm",
        "audit.num_samples=50",
        "audit.num_predictive=20",
        "audit.num_minimal=1",
    )
    quick += ("audit.num_simulations=300", "audit.num_held_out=200", "audit.flow=false")
    for number, audit in enumerate(audits):
        words = shlex.split(audit.replace("<run>", folder.name))
        few = ["report=false"] if number else []
        done = run(tmp_path, "-m", "robust_npe.cli", *words, *quick, *few)
        assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("outputs/audits/*"))) == 3
    (page,) = tmp_path.glob("outputs/audits/*/audit.html")
    assert "mass" in page.read_text()
    listed = set(re.findall(r"`(\w+\.csv)`", text)) - {"x_o.csv"}
    assert listed == {path.name for path in page.parent.glob("*.csv")}


def test_python_of_the_page_about_audits_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "audit.md").read_text()
    block = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)[-1]
    small = block.replace("10_000", "300").replace("-1.4], ", "-1.4], settings=quick, ")
    quick = AuditSettings(num_attacked=1, num_samples=50, flow=False, num_pictured=1)
    with draws_from(stream(0, "docs")):
        exec(compile(small, "audit.md", "exec"), {"quick": quick})
    assert "perturbation" in capsys.readouterr().out
    assert (tmp_path / "audit" / "audit.html").is_file()


def test_commands_of_the_page_about_autoencoders_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^robust-npe (.*)$", page("vae.md"), re.MULTILINE)
    assert len(commands) == 2
    few = ("evaluation.num_attacked=4", "attack.steps=3", "metric=[r_robustness,divergence]")
    for command in commands:
        assert cli.main([*shlex.split(command), *SMALL, *few, "epsilon=1"]) == 0
    tables = [pd.read_csv(path) for path in tmp_path.glob("outputs/runs/*/results.csv")]
    assert sorted(table.defense[0] for table in tables) == ["fim", "none"]
    assert all((table.metric == "r_probability").any() for table in tables)


def test_commands_of_the_page_about_fronts_work(tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna", reason="needs the extra pareto")
    monkeypatch.chdir(tmp_path)
    few = ("evaluation.num_attacked=4", "attack.steps=3", "metric=[nll,divergence]")
    few += ("estimator=gaussian", "epsilon=0.5")
    commands = re.findall(r"^robust-npe (.*)$", page("pareto.md"), re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        words = [word for word in shlex.split(command) if "n_trials" not in word]
        words += ["hydra.sweeper.n_trials=2"] if "hydra/sweeper=pareto" in words else []
        words += ["hydra.launcher.n_jobs=1"] if "hydra/launcher=cores" in words else []
        words += [*SMALL, *few] if words[0] == "train" else []
        assert cli.main(words) == 0
    assert "Linear Gaussian: fim beta=" in capsys.readouterr().out
    assert len(list(tmp_path.glob("outputs/runs/*/results.csv"))) == 1 + 3 + 2 * 2 + 2
    table = pd.read_csv(tmp_path / "outputs" / "pareto.csv")
    assert {"nll", "kl", "loss", "relative_to", "non_dominated", "seeds"} <= {*table.columns}
    assert len(table) == 4  # of the grid, stored before that command


def test_python_of_the_page_about_autoencoders_runs(monkeypatch, capsys):
    def train_shortly(*args):
        *given, settings, generator = args
        return train(*given, replace(settings, max_epochs=2, min_epochs=1), generator)

    (block,) = re.findall(r"^```python\n(.*?)^```", page("vae.md"), re.M | re.S)
    monkeypatch.setattr("robust_npe.api._train", train_shortly)
    exec(compile(block, "vae.md", "exec"), {})
    assert float(re.search(r"[\d.]+", capsys.readouterr().out)[0]) > 0


def test_commands_of_the_page_about_bayesian_networks_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^robust-npe (train task.*)$", page("bnn.md"), re.MULTILINE)
    assert len(commands) == 2
    few = ("evaluation.num_attacked=4", "epsilon=0.5")
    for command, smaller in zip(
        commands, ("estimator.hidden=[16]", "defense.draws=2"), strict=True
    ):
        assert cli.main([*shlex.split(command), *SMALL, *few, smaller]) == 0
    tables = [pd.read_csv(path) for path in tmp_path.glob("outputs/runs/*/results.csv")]
    assert sorted(table.defense[0] for table in tables) == ["none", "swag"]
    assert sum((table.metric == "masking").any() for table in tables) == 1


def test_python_of_the_page_about_bayesian_networks_runs(capsys):
    (block,) = re.findall(r"^```python\n(.*?)^```", page("bnn.md"), re.M | re.S)
    exec(compile(block, "bnn.md", "exec"), {})
    clean, attacked = map(float, re.findall(r"\d\.\d+", capsys.readouterr().out))
    assert clean > 0.9
    assert attacked < clean


def page(name):
    return (ROOT / "docs" / name).read_text()


def test_command_and_python_of_the_page_about_interruptions_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = page("resume.md")
    (command,) = re.findall(r"^robust-npe (.*)$", text, re.MULTILINE)
    few = ("evaluation.num_attacked=4", "attack.steps=3", "metric=[nll]", "epsilon=1")
    assert cli.main([*shlex.split(command), *SMALL, *few]) == 0
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    small = block.replace("10_000", "700").replace("Settings()", "Settings(max_epochs=2)")
    exec(compile(small, "resume.md", "exec"), {})
    assert float(re.findall(r"[-\d.]+", capsys.readouterr().out)[-1]) > -100
