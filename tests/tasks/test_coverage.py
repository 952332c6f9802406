"""An estimator trained at laptop scale is calibrated on clean data, for each task of the paper."""

from __future__ import annotations

import pandas as pd
import pytest

from robust_npe import cli

TASKS = {
    "gaussian_linear": [],
    "lotka_volterra": [],
    "sir": [],
    "spatial_sir": [],
    "vae": [],
    "hodgkin_huxley": [],
    "hodgkin_huxley_2d": [],
    "toy": ["epsilon_unit=feature"],
}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_mean_absolute_coverage_error_on_clean_data(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["robust-npe"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    words = ["train", f"task={task}", "metric=[nll,coverage]", "attack=noise", "plots=false"]
    assert cli.main([*words, "epsilon=0.1", *TASKS[task]]) == 0
    (path,) = tmp_path.glob("outputs/runs/*/results.csv")
    table = pd.read_csv(path)
    chosen = (table.metric == "coverage") & (table.attack == "none")
    error = table[chosen & (table.statistic == "mean_absolute_error")].value.item()
    assert error < 0.1
