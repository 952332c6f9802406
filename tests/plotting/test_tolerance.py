from __future__ import annotations

import math

import numpy as np
import pytest

from robust_npe.plotting import COLORS, NothingToDrawError, save_figure, tolerance_plot
from tests.plotting.tables import EPSILONS, divergences, noise, row, table

# drawing text with the tested matplotlib uses names that pyparsing has deprecated
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def lines(axes, label):
    """Line, lower and upper ends of its error bars."""
    for container in axes.containers:
        if container.get_label() == label:
            data, _, (bars,) = container.lines
            segments = np.array(bars.get_segments())
            return data, segments[:, 0, 1], segments[:, 1, 1]
    raise AssertionError(f"no line {label} in {[c.get_label() for c in axes.containers]}")


def test_tolerance_draws_medians_and_quantiles_of_the_table():
    figure = tolerance_plot(table(divergences(2.0), noise(0.1)))
    (axes,) = figure.axes
    for label, base in (("PGD", 2.0), ("random noise", 0.1)):
        data, low, high = lines(axes, label)
        expected = base * np.array(EPSILONS)
        assert data.get_ydata() == pytest.approx(expected)
        assert low == pytest.approx(0.5 * expected)
        assert high == pytest.approx(3 * expected)
        assert np.round(np.asarray(data.get_xdata(), float)) == pytest.approx(
            [0, 1, 2]
        )  # equally spaced
        assert data.get_color() == COLORS[{"PGD": "pgd"}.get(label, "noise")]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0.1", "0.5", "2"]
    assert axes.get_yscale() == "log"
    assert axes.get_title() == "gl"
    assert axes.get_xlabel() == "perturbation radius,\nin standard deviations of x (L2)"
    assert "nats" in axes.get_ylabel()
    assert "medians" in caption(figure)
    assert "15 to 85 %" in caption(figure)
    assert "not to scale" in caption(figure)
    assert "seeds" not in caption(figure)


def test_tolerance_has_one_panel_per_task_and_the_wanted_metric():
    parts = (
        divergences(1.0),
        divergences(5.0, metric="kl_reverse"),
        divergences(7.0, task="lv", metric="kl_reverse"),
    )
    figure = tolerance_plot(table(*parts), metric="kl_reverse")
    assert [axes.get_title() for axes in figure.axes] == ["gl", "lv"]
    for axes, base in zip(figure.axes, (5.0, 7.0), strict=True):
        assert lines(axes, "PGD")[0].get_ydata() == pytest.approx(base * np.array(EPSILONS))


def test_tolerance_averages_over_seeds_and_separates_defenses():
    parts = (
        divergences(1.0, seed=0),
        divergences(3.0, seed=1),
        divergences(10.0, defense="fim", beta=0.1),
    )
    figure = tolerance_plot(table(*parts), compare="defense")
    (axes,) = figure.axes
    assert "Means over seeds" in caption(figure)
    assert legend(figure) == ["no defense", "FIM"]
    assert lines(axes, "no defense")[0].get_ydata() == pytest.approx(2 * np.array(EPSILONS))
    assert lines(axes, "FIM")[0].get_ydata() == pytest.approx(10 * np.array(EPSILONS))
    assert lines(axes, "FIM")[0].get_color() == COLORS["fim"]


def test_tolerance_compares_betas_including_none():
    parts = (divergences(1.0), divergences(2.0, defense="fim", beta=0.1))
    (axes,) = tolerance_plot(table(*parts), compare="beta").axes
    assert lines(axes, "no defense")[0].get_ydata() == pytest.approx(np.array(EPSILONS))
    assert lines(axes, "β = 0.1")[0].get_ydata() == pytest.approx(2 * np.array(EPSILONS))


def legend(figure):
    (found,) = figure.subfigs[0].legends
    return [text.get_text() for text in found.get_texts()]


def caption(figure):
    return figure.get_supxlabel().replace("\n", " ")


def dashed(axes):
    return [line for line in axes.lines if line.get_linestyle() == "--" and len(line.get_xdata())]


def test_movement_of_the_true_posterior_belongs_to_each_attack():
    # noise moves the true posterior less than an attack does: they must not be averaged
    parts = (
        divergences(2.0),
        noise(0.1),
        divergences(1.0, metric="legitimate_movement"),
        noise(0.05, metric="legitimate_movement"),
    )
    figure = tolerance_plot(table(*parts))
    (axes,) = figure.axes
    drawn = sorted(tuple(line.get_ydata()) for line in dashed(axes))
    assert len(drawn) == 2
    assert drawn[0] == pytest.approx(0.05 * np.array(EPSILONS))
    assert drawn[1] == pytest.approx(np.array(EPSILONS))
    assert legend(figure) == ["PGD", "random noise", "true posterior"]


def test_no_dashed_line_where_the_true_posterior_is_unknown():
    assert dashed(tolerance_plot(table(divergences(2.0))).axes[0]) == []


def changed(parts, epsilon, **values):
    """Rows with other statistics at one radius."""
    keep = [r for r in parts if r["epsilon"] != epsilon]
    return keep + [row(epsilon=epsilon, statistic=s, value=v) for s, v in values.items()]


def hollow(axes):
    """Places of hollow markers, by marker."""
    marks = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    return {line.get_marker(): [*map(tuple, line.get_xydata())] for line in marks}


@pytest.mark.parametrize(
    "unresolved",
    [
        {"median": -1e-3, "q15": -2e-3, "q85": 0.2},
        {"median": 0.0, "q15": 0.0, "q85": 0.2},
        {"median": 1e-9, "q15": -1e-3, "q85": 0.2, "median_se": 6e-10},
    ],
)
def test_medians_not_told_from_zero_lie_hollow_on_the_axis(tmp_path, unresolved):
    figure = tolerance_plot(table(changed(divergences(1.0), 0.1, **unresolved)))
    (axes,) = figure.axes
    floor = axes.get_ylim()[0]
    assert 0.01 < floor < 0.2  # what is not resolved does not stretch the axis
    assert hollow(axes) == {"o": [(0, pytest.approx(floor))]}
    (dotted,) = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert dotted.get_ydata() == pytest.approx([floor, 0.5, 2])  # the line is not broken
    (solid, *_), (hollow_one, *_) = (container.lines for container in axes.containers)
    assert solid.get_ydata() == pytest.approx([math.nan, 0.5, 2], nan_ok=True)
    assert hollow_one.get_color() == solid.get_color()
    bars = axes.containers[1].lines[2][0].get_segments()
    assert bars[0][:, 1] == pytest.approx([floor, 0.2])
    assert "not told from zero" in caption(figure)
    assert legend(figure) == ["PGD"]
    save_figure(figure, tmp_path / "plot.png")


def test_a_median_of_more_than_two_standard_errors_is_a_point_like_others():
    resolved = {"median": 1e-3, "q15": 1e-4, "q85": 0.2, "median_se": 4e-4}
    figure = tolerance_plot(table(changed(divergences(1.0), 0.1, **resolved)))
    assert hollow(figure.axes[0]) == {}
    assert lines(figure.axes[0], "PGD")[0].get_ydata() == pytest.approx([1e-3, 0.5, 2])
    assert "hollow" not in caption(figure)


@pytest.mark.parametrize("median", [math.nan, math.inf])
def test_medians_that_are_not_finite_lie_hollow_at_the_upper_end(tmp_path, median):
    parts = changed(divergences(1.0), 0.5, median=median, q15=median, q85=median)
    figure = tolerance_plot(table(parts))
    top = figure.axes[0].get_ylim()[1]
    assert hollow(figure.axes[0]) == {"^": [(1, pytest.approx(top))]}
    assert 6 < top < 20  # above the largest finite quantile, 3 * 2
    assert "not finite" in caption(figure)
    save_figure(figure, tmp_path / "plot.png")


def test_one_broken_seed_is_not_averaged_away():
    broken = changed(divergences(1.0), 0.5, median=math.nan, q15=math.nan, q85=math.nan)
    figure = tolerance_plot(table(divergences(1.0, seed=1), broken))
    assert list(hollow(figure.axes[0])) == ["^"]


def test_nothing_above_zero_can_still_be_drawn(tmp_path):
    parts = [r | {"value": -r["value"]} for r in divergences(1.0)]
    figure = tolerance_plot(table(parts))
    floor = pytest.approx(figure.axes[0].get_ylim()[0])
    assert hollow(figure.axes[0]) == {"o": [(0, floor), (1, floor), (2, floor)]}
    save_figure(figure, tmp_path / "plot.png")


def test_what_is_certified_is_dotted_and_does_not_stretch_the_axis(tmp_path):
    bounds = divergences(2.5, metric="certified_kl_forward")
    huge = {"median": 1e30, "q15": 1e20, "q85": math.inf}
    huge = [r | {"metric": "certified_kl_forward"} for r in changed(bounds, 2.0, **huge)]
    other = divergences(7.0, metric="certified_kl_reverse")  # belongs to another plot
    figure = tolerance_plot(table(divergences(2.0), huge, other))
    (axes,) = figure.axes
    dotted = [line for line in axes.lines if line.get_linestyle() == ":" and len(line.get_xdata())]
    assert [line.get_ydata() for line in dotted] == [pytest.approx([0.25, 1.25, 1e30])]
    assert dotted[0].get_color() == lines(axes, "PGD")[0].get_color()
    without = tolerance_plot(table(divergences(2.0)))
    assert axes.get_ylim() == without.axes[0].get_ylim()
    assert legend(figure) == ["PGD", "certified"]
    assert legend(without) == ["PGD"]
    assert "certified" in caption(figure)
    save_figure(figure, tmp_path / "plot.png")


def test_a_single_radius_shows_the_true_posterior(tmp_path):
    rows = table(divergences(2.0), divergences(1.0, metric="legitimate_movement"))
    figure = tolerance_plot(rows[rows.epsilon == 0.5])
    (mark,) = dashed(figure.axes[0])
    assert mark.get_marker() == "x"
    assert (*mark.get_xdata(), *mark.get_ydata()) == pytest.approx((0, 0.5))
    assert legend(figure) == ["PGD", "true posterior"]
    save_figure(figure, tmp_path / "plot.png")


def test_radius_0_is_not_drawn(tmp_path):
    still = [row(epsilon=0.0, statistic=s, value=0.0) for s in ("median", "q15", "q85")]
    figure = tolerance_plot(table(divergences(1.0), still))
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["0.1", "0.5", "2"]
    assert hollow(figure.axes[0]) == {}
    with pytest.raises(NothingToDrawError, match="radius above 0"):
        tolerance_plot(table(still))


def test_the_legend_has_the_lines_of_all_panels_in_one_colour_each():
    parts = (
        divergences(1.0, defense="trades", beta=1.0),
        divergences(1.0, defense="mine"),
        divergences(2.0, task="sir", metric="legitimate_movement"),
        divergences(2.0, task="sir", defense="trades", beta=1.0),
        divergences(2.0, task="sir"),
        divergences(2.0, task="sir", defense="other"),
    )
    figure = tolerance_plot(table(*parts), compare="defense")
    names = ["no defense", "TRADES", "mine", "other", "true posterior"]
    assert legend(figure) == names
    assert [axes.get_title() for axes in figure.axes] == ["SIR", "gl"]
    shown = [lines(axes, "TRADES")[0] for axes in figure.axes]
    assert {line.get_color() for line in shown} == {COLORS["trades"]}
    own = [
        lines(axes, n)[0].get_color()
        for axes, n in zip(figure.axes, ("other", "mine"), strict=True)
    ]
    assert len(set(own)) == 2


def test_what_only_some_lines_have_is_drawn_for_them():
    # true posteriors were measured for noise alone, the divergence for PGD alone
    parts = (divergences(1.0), noise(0.5, metric="legitimate_movement"))
    figure = tolerance_plot(table(*parts))
    assert dashed(figure.axes[0]) == []
    assert legend(figure) == ["PGD"]


def test_a_table_without_the_metric_has_nothing_to_draw():
    with pytest.raises(NothingToDrawError, match="kl_reverse"):
        tolerance_plot(table(divergences(1.0)), metric="kl_reverse")
    with pytest.raises(NothingToDrawError, match="kl_forward"):
        tolerance_plot(table(divergences(1.0, attack="none", objective="")))
