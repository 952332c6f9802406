from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^`([\w./]+)`[^`]*?\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_example_of_contributing_works(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    files = dict(BLOCK.findall(text))
    assert len(files) == 6
    for folder in ("robust_npe", "conf"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    for name, content in files.items():
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(content)
    command = re.search(r"^robust-npe (train task=sensors .*)$", text, re.MULTILINE)[1].split()
    small = ["num_simulations=128", "training.max_epochs=1", "epsilon=[0.5]", "plots=false"]
    done = subprocess.run(
        [sys.executable, "-m", "robust_npe.cli", *command, *small],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (results,) = tmp_path.glob("outputs/runs/*/results.csv")
    table = pd.read_csv(results)
    assert set(table.task) == {"sensors"}
    assert set(table.defense) == {"score"}
    assert "random_search" in set(table.attack)


@pytest.mark.parametrize("name", ["README.md"])
def test_python_example_of_the_readme_runs(name, capsys):
    code = re.search(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)[1]
    assert len(code.strip().splitlines()) <= 20
    small = code.replace("10_512", "1_024").replace(
        "TrainingSettings()", "TrainingSettings(max_epochs=2)"
    )
    assert small != code
    with torch.random.fork_rng():
        exec(compile(small, name, "exec"), {})
    assert float(re.search(r"[\d.]+", capsys.readouterr().out)[0]) > 0
