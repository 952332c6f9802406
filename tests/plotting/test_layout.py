from __future__ import annotations

import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from robust_npe.plotting.layout import legend_entries


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
