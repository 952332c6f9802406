"""A sweep on a local Ray, which has an environment of its own: see docs/clusters.md."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.sweeps.test_sweeps import SMALL, states

pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="make test-ray")


def test_a_sweep_on_ray(tmp_path):
    words = ["train", "-m", "hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"]
    done = subprocess.run(
        [sys.executable, "-m", "robust_npe.cli", *words, *SMALL, "standardize=zscore,oops,none"],
        cwd=tmp_path,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert states(done.stdout) == {
        "standardize=zscore": "done",
        "standardize=oops": "failed",
        "standardize=none": "done",
    }
    assert len(list(tmp_path.glob("outputs/runs/*/results.csv"))) == 2
