from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from robust_npe.plotting import COLORS, NothingToDrawError, UntidyTableError
from robust_npe.plotting.ridge import ridge_figure
from robust_npe.plotting.toy import toy_figure
from robust_npe.recipes.regression import ridge_table
from tests.plotting.example_tables import SHARED


def densities(defense, level, **settings):
    x, theta = np.arange(4.0), np.arange(3.0)
    grid = pd.MultiIndex.from_product([x, theta], names=["x", "theta"]).to_frame(index=False)
    density = grid.assign(what="density", value=level * grid.theta)
    along = pd.DataFrame({"x": x, "what": "information", "value": level})
    keys = SHARED | {"defense": defense} | settings
    return pd.concat([density, along]).assign(**keys)


def table():
    return pd.concat([densities(*d) for d in (("truth", 0.1), ("none", 0.2), ("fim", 0.05))])


def test_a_density_above_its_information():
    figure = toy_figure(table())
    upper, lower = figure.axes[:3], figure.axes[3:6]
    titles = ["true posterior", "no defense", "FIM"]
    assert [axes.get_title() for axes in upper] == titles
    np.testing.assert_allclose(upper[1].collections[0].get_array()[:, 0], [0, 0.2, 0.4])
    for axes, levels in zip(lower, ([0.1], [0.1, 0.2], [0.1, 0.05]), strict=True):
        assert [line.get_ydata()[0] for line in axes.lines] == levels  # the truth, dashed, and q
    assert lower[2].lines[1].get_color() == COLORS["fim"]


def test_two_trainings_are_not_mixed():
    with pytest.raises(ValueError, match="mix seed"):
        toy_figure(pd.concat([table(), densities("none", 0.1, seed=1)]))
    with pytest.raises(NothingToDrawError):
        toy_figure(table().iloc[:0])


@pytest.mark.parametrize("column", ["x", "theta", "value"])
def test_texts_in_place_of_numbers_are_told(column):
    rows = table().astype({column: object})
    rows.iloc[1, rows.columns.get_loc(column)] = "abc"
    with pytest.raises(UntidyTableError, match=f"the column {column} has 'abc'"):
        toy_figure(rows)


def test_ridge_fits_have_a_line_for_each_beta():
    figure = ridge_figure(ridge_table([0.0, 1.0]))
    left, right = figure.axes
    (legend,) = figure.subfigs[0].legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["sin x", "data", "β = 0", "β = 1"]
    fits = left.lines[2:]
    assert len({(line.get_color(), line.get_linestyle()) for line in fits}) == 2
    assert len(right.lines) == 4  # each with its values at the data
    with pytest.raises(NothingToDrawError):
        ridge_figure(ridge_table([]))
