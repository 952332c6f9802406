from __future__ import annotations

import pytest

from robust_npe.pareto import fronts
from robust_npe.plotting import pareto_plot
from tests.plotting.tables import clean, divergences, table
from tests.test_pareto import MIDDLE, NONE, STRONG, WEAK

BROKEN = {"defense": "trades", "beta": 1.0}
UNRESOLVED = [*divergences(0.0, **BROKEN), *clean(3.0, 10.0, diverged=1.0, **BROKEN)]


def test_front_is_joined_and_what_others_beat_is_hollow():
    points = fronts(table(NONE, WEAK, MIDDLE, STRONG, UNRESOLVED), 0.5)
    figure = pareto_plot(points, 0.1, 0.5)
    (axes,) = figure.axes
    bottom = axes.get_ylim()[0]
    (front,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    assert front.get_xdata().tolist() == pytest.approx([0.0, 0.05, 0.5, 2.0])
    assert front.get_ydata().tolist() == pytest.approx([10.0, 4.0, 2.0, bottom])
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    drawn = [line.get_xydata().ravel().tolist() for line in hollow if len(line.get_xydata())]
    assert drawn == [pytest.approx([0.6, 3.0])]
    (shade,) = axes.patches
    assert shade.get_xy()[:, 0].max() == pytest.approx(0.1)
    (mark,) = [text for text in axes.texts if text.get_text() == "†"]
    assert mark.xy == pytest.approx((2.0, bottom))
    (legend,) = figure.subfigs[0].legends
    names = ["front", "no defense", "FIM", "TRADES"]
    assert [text.get_text() for text in legend.get_texts()] == names
    caption = figure.get_supxlabel().replace("\n", " ")
    assert "Shaded: at most 0.1 nats lost." in caption
    assert "not told from zero" in caption
    assert "diverged" in caption


def test_axis_says_what_losses_are_relative_to():
    (axes,) = pareto_plot(fronts(table(WEAK, STRONG), 0.5), 0.1, 0.5).axes
    assert "above the best NLL" in axes.get_xlabel()
