from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^`([\w./]+)`[^`]*?\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_example_of_contributing_works(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    files = dict(BLOCK.findall(text))
    assert len(files) == 6
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    command = re.search(r"^robust-npe (--module .* train .*)$", text, re.MULTILINE)[1].split()
    small = ["num_simulations=128", "training.max_epochs=1", "epsilon=[0.5]", "plots=false"]

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "robust_npe.cli", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

    done = run(*command, *small)
    assert done.returncode == 0, done.stderr
    (results,) = tmp_path.glob("outputs/runs/*/results.csv")
    table = pd.read_csv(results)
    assert set(table.task) == {"sensors"}
    assert set(table.defense) == {"score"}
    assert "random_search" in set(table.attack)
    # what needs the files again says which
    again = ["attack", f"run={results.parent.name}", "attack=noise", "epsilon=0.5", "plots=false"]
    refused = run(*again)
    assert refused.returncode == 2
    assert "--module sensors.py" in refused.stderr
    assert refused.stderr.count("\n") == 1
    handed = [w for n in ("sensors", "score_penalty") for w in ("--module", f"{n}.py")]
    done = run(*handed, *again)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["README.md"])
def test_python_example_of_the_readme_runs(name, capsys):
    code = re.search(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)[1]
    assert len(code.strip().splitlines()) <= 8
    small = code.replace("10_000", "500")
    assert small != code
    exec(compile(small, name, "exec"), {})
    assert float(re.search(r"[\d.]+", capsys.readouterr().out)[0]) > 0
