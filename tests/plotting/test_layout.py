from __future__ import annotations

import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robust_npe.plotting import tolerance_plot
from robust_npe.plotting.layout import legend_entries
from tests.plotting.tables import divergences, table


@pytest.mark.parametrize(("points", "is_line"), [([1], False), ([1, 2], True)])
def test_legends_show_a_line_where_there_is_one(points, is_line):
    panels = Figure().subplots(1, 2)
    for axes, x in zip(panels, ([1], points), strict=True):
        axes.errorbar(x, x, yerr=x, marker="s", color="red", label="bars")
        axes.plot(x, x, marker="^", color="blue", label="plain")
    handles, labels = legend_entries(panels, ["plain", "absent", "bars"])
    assert labels == ["plain", "bars"]
    lines = [h.lines[0] if isinstance(h, ErrorbarContainer) else h for h in handles]
    assert all(isinstance(line, Line2D) for line in lines)
    assert [(line.get_marker(), line.get_color()) for line in lines] == [
        ("^", "blue"),
        ("s", "red"),
    ]
    assert [line.get_linestyle() != "None" for line in lines] == [is_line] * 2


@pytest.mark.parametrize("tasks", [["gl"], ["gl", "sir", "vae"]])
def test_legends_of_long_names_fit_into_the_figure(tasks):
    names = ["none", "a defense " * 15, "w" * 30, "one with some settings"]
    found = [divergences(1.0, defense=name, task=task) for name in names for task in tasks]
    figure = tolerance_plot(table(*found), compare="defense")
    figure.draw_without_rendering()
    place = figure.subfigs[0]
    (legend,) = place.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    assert box.y0 > max(axes.get_tightbbox().y1 for axes in place.axes)
    texts = [text.get_text().replace("\n", " ") for text in legend.get_texts()]
    assert texts == ["no defense", *sorted(name.strip() for name in names[1:])]
