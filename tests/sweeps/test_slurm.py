"""Run by `make test-slurm`, which starts a cluster of one node."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from robust_npe import cli
from tests.sweeps.test_sweeps import SMALL, states

pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install '.[slurm]'")
pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(autouse=True)
def _cluster():
    if shutil.which("sinfo") is None:
        pytest.skip("there is no Slurm: make test-slurm")
    if subprocess.run(["sinfo"], capture_output=True, check=False).returncode:
        pytest.skip("Slurm does not run here: make test-slurm")


def test_a_sweep_on_slurm(capsys, tmp_path):
    words = ["train", "-m", "hydra/launcher=slurm", "hydra.launcher.mem_gb=1", *SMALL]
    assert cli.main([*words, "standardize=zscore,oops,none"]) == 1
    found = states(capsys.readouterr().out)
    assert found == {
        "standardize=zscore": "done",
        "standardize=oops": "failed",
        "standardize=none": "done",
    }
    assert len(list(tmp_path.glob("outputs/runs/*/results.csv"))) == 2
    assert len(list(tmp_path.glob("outputs/logs/*/.submitit/*/*_submitted.pkl"))) == 3
