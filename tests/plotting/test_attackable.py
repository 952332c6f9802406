from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from robust_npe.plotting import COLORS, NothingToDrawError
from robust_npe.plotting.attackable import attackable_figure
from tests.plotting.example_tables import SHARED


def observations(defense="none", level=1.0, **settings):
    theta = np.random.default_rng(0).normal(size=(64, 2))
    highest = np.linspace(0.2, 5, 64)
    columns = {"theta_1": theta[:, 0], "theta_2": theta[:, 1], "highest": highest}
    columns |= {"observation": range(64), "kl_forward": level / highest}
    keys = SHARED | {"task": "sir", "defense": defense, "epsilon": 0.2}
    return pd.DataFrame({**keys, **settings, **columns})


def test_planes_of_each_defense_and_both_against_the_peak():
    table = pd.concat([observations(), observations("fim", 0.01, beta=0.1)])
    figure = attackable_figure(table)
    first, second, peaks, bar = figure.axes
    assert [axes.get_title() for axes in (first, second)] == ["no defense", "FIM β=0.1"]
    points = first.collections[0]
    divergence = points.get_array()
    assert divergence.tolist() == sorted(divergence)  # the largest are drawn last
    assert points.norm is second.collections[0].norm
    medians = {line.get_label(): line for line in peaks.lines if line.get_linestyle() == "-"}
    assert [*medians] == ["no defense", "FIM β=0.1"]
    line = medians["no defense"]
    assert line.get_color() == COLORS["none"]
    np.testing.assert_allclose(line.get_ydata(), 1 / line.get_xdata(), rtol=0.1)
    assert "64 observations" in figure.get_supxlabel()
    assert "KL" in bar.get_ylabel()


def test_what_a_logarithm_cannot_show_is_at_the_lower_end():
    rows = observations()
    rows.loc[rows.index[:20], "kl_forward"] = -1e-3
    points, medians = attackable_figure(rows).axes[1].lines
    assert min(points.get_ydata()) == min(medians.get_ydata()) == 1e-4
    assert len(points.get_ydata()) == 64


def test_settings_are_not_mixed():
    with pytest.raises(ValueError, match="mix epsilon"):
        attackable_figure(pd.concat([observations(), observations("fim", epsilon=1.0)]))
    with pytest.raises(ValueError, match="mix beta"):
        attackable_figure(pd.concat([observations(beta=1.0), observations(beta=2.0)]))
    with pytest.raises(NothingToDrawError):
        attackable_figure(observations().iloc[:0])
