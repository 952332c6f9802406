from __future__ import annotations

import numpy as np
import pytest
import torch

from robust_npe.plotting import save_figure
from robust_npe.plotting.pyloric import Example, Scene, pyloric_figure
from tests.plotting import tables
from tests.plotting.tables import EPSILONS, LEVELS, row

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CELLS, POINTS = ("one", "two", "three"), 40


def scene():
    low = torch.tensor([0.0, 10.0])
    theta = torch.tensor([0.25, 20.0])
    times = torch.arange(POINTS) * 2.5
    return Scene(CELLS, times, theta, low, low + 20, ("g_a", "g_b"))


def example(title):
    generator = torch.Generator().manual_seed(0)
    samples = 20 * torch.rand(2, 100, 2, generator=generator) + torch.tensor([0.0, 10.0])
    x = torch.full((2, 3 * POINTS), -50.0)
    return Example(title, 1.25, x, samples, x.unsqueeze(1).repeat(1, 5, 1))


def table():
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
    figure = pyloric_figure(scene(), [example("no defense"), example("FIM")], table())
    top, middle, bottom = figure.subfigs
    assert len(top.axes) == 3 * 4
    assert [a.get_ylabel() for a in top.axes[::4]] == list(CELLS)
    assert top.axes[0].images[0].get_array().shape == (5, POINTS)
    assert len(middle.axes) == 2
    assert "1.2" in middle.axes[0].get_title(loc="right")
    truth = middle.axes[0].lines[-1].get_ydata()
    np.testing.assert_allclose(truth, [0.25 / 20, 0.5])
    assert [len(part.axes) for part in bottom.subfigs] == [1, 2]
    (radii,) = bottom.subfigs[1].legends
    assert [t.get_text() for t in radii.get_texts()] == ["0.1", "0.5", "2"]
    assert "15 to 85 %" in bottom.get_supxlabel()
    save_figure(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_runs_that_differ_in_a_setting_are_not_pooled():
    mixed = table()
    mixed.loc[mixed.index[-3:], "num_simulations"] = 5
    with pytest.raises(ValueError, match="mix num_simulations"):
        pyloric_figure(scene(), [example("no defense")], mixed)
