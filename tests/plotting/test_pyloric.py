from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from robust_npe.plotting import save_figure
from robust_npe.plotting.pyloric import pyloric_figure
from tests.plotting import tables
from tests.plotting.example_tables import TIMES, example
from tests.plotting.tables import EPSILONS, LEVELS, row

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CELLS, LOW, HIGH = ("one", "two", "three"), -1.0, 3.0


def examples(*defenses):
    parts = []
    for defense in defenses:
        rows = example("pyloric", defense, names=("g_a", "g_b"), series=CELLS)
        truth = rows[rows.what == "truth"]
        ends = [truth.assign(what=w, value=v) for w, v in (("low", LOW), ("high", HIGH))]
        parts += [rows, *ends]
    return pd.concat(parts)


def results():
    rows = []
    for defense in ("none", "fim"):
        for e in EPSILONS:
            numbers = {"median": e, "q15": e / 2, "q85": 2 * e}
            moved = {"defense": defense, "epsilon": e}
            rows += [row(**moved, statistic=s, value=v) for s, v in numbers.items()]
            shared = {"defense": defense, "metric": "coverage", "statistic": "coverage"}
            rows += [row(**shared, epsilon=e, level=v, value=v**2) for v in LEVELS]
    return tables.table(rows)


def test_a_column_for_each_posterior_and_a_row_for_each_cell(tmp_path):
    figure = pyloric_figure(examples("none", "fim"), results())
    top, middle, bottom = figure.subfigs
    assert len(top.axes) == 3 * 4
    assert [a.get_ylabel() for a in top.axes[::4]] == list(CELLS)
    assert top.axes[0].images[0].get_array().shape == (2, len(TIMES))  # two simulations
    assert len(middle.axes) == 2
    assert "1.2" in middle.axes[0].get_title(loc="right")
    truth = middle.axes[0].lines[-1].get_ydata()
    np.testing.assert_allclose(truth, -LOW / (HIGH - LOW))
    clean, attacked = (line.get_ydata() for line in middle.axes[0].lines[:2])  # medians
    np.testing.assert_allclose(attacked - clean, [2 / (HIGH - LOW), 0], atol=1e-6)
    assert [len(part.axes) for part in bottom.subfigs] == [1, 2]
    assert "15 to 85 %" in figure.get_supxlabel()
    save_figure(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_runs_that_differ_in_a_setting_are_not_pooled():
    mixed = results()
    mixed.loc[mixed.index[-3:], "num_simulations"] = 5
    with pytest.raises(ValueError, match="mix num_simulations"):
        pyloric_figure(examples("none"), mixed)
    with pytest.raises(ValueError, match="mix seed"):
        pyloric_figure(pd.concat([examples("none"), examples("none").assign(seed=1)]), results())
