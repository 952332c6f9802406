from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from robust_npe.commands import train
from robust_npe.recipes import Recipe
from robust_npe.recipes.pyloric import thinned
from robust_npe.tasks.pyloric import PARAMETER_NAMES, PRIOR_LOW

SCRIPT = Path(__file__).parents[2] / "scripts" / "figure6.py"


def test_thinned_traces_keep_their_spikes():
    voltage = np.full(8, -60.2)
    voltage[3] = 41.7
    rows = pd.DataFrame({"position": np.arange(8) * 2.5, "value": voltage}).assign(
        what="simulation", name="LP", statistic="0", row=np.nan
    )
    both = pd.concat([rows, rows.assign(statistic="1", value=-50.0)])
    found = thinned(both)
    first = found[found.statistic == "0"]
    assert first.position.tolist() == [0, 5, 10, 15]
    assert first.value.tolist() == [-60, 42, -60, -60]
    assert found[found.statistic == "1"].value.tolist() == 4 * [-50]


@pytest.mark.slow
def test_figure6_is_drawn_from_the_runs_and_attacks_nothing_again(tmp_path):
    recipe = Recipe("figure6", "smoke", tmp_path)
    for job in recipe.jobs:
        train.run(job.experiment)
    stored = {path: path.stat().st_mtime_ns for path in tmp_path.glob("store/*/*")}
    figure = runpy.run_path(str(SCRIPT))["FIGURE"]
    tables = figure.tables("smoke", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("store/*/*")} == stored
    table = tables["examples"]
    low = table[(table.what == "low") & (table.defense == "none")]
    assert dict(zip(low.name, low.value, strict=True)) == pytest.approx(
        dict(zip(PARAMETER_NAMES, PRIOR_LOW, strict=True))
    )
    assert figure.save(tables, tmp_path)[1].stat().st_size > 10_000
