from __future__ import annotations

import numpy as np
import pytest

from robust_npe.plotting import EPSILON_COLORS, NothingToDrawError, coverage_plot, save_figure
from tests.plotting.tables import LEVELS, coverages, divergences, row, table

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_coverage_draws_the_curves_of_the_table():
    parts = (coverages(1.0, 0.0), coverages(2.0, 0.5), coverages(0.5, 0.5, attack="noise"))
    figure = coverage_plot(table(*parts))
    assert [axes.get_title() for axes in figure.axes] == ["gl, PGD", "gl, random noise"]
    for axes, power in zip(figure.axes, (2.0, 0.5), strict=True):
        curves = {line.get_label(): line for line in axes.lines}
        for label, p, epsilon in (("clean", 1.0, 0.0), ("0.5", power, 0.5)):
            assert curves[label].get_xdata() == pytest.approx(LEVELS)
            assert curves[label].get_ydata() == pytest.approx(LEVELS**p)
            assert curves[label].get_color() == EPSILON_COLORS[epsilon]
        diagonal = curves.pop("_child0")
        assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 1]
        assert set(curves) == {"clean", "0.5"}


def test_coverage_averages_over_seeds_and_separates_defenses():
    parts = [
        coverages(power, 0.0, task=task, seed=seed, defense=defense)
        for task in ("sir", "gaussian_linear")
        for power, seed, defense in ((1.0, 0, "none"), (3.0, 1, "none"), (2.0, 0, "fim"))
    ]
    figure = coverage_plot(table(*parts), rows="defense")
    assert [axes.get_ylabel() for axes in figure.axes] == ["no defense", "", "FIM", ""]
    assert [axes.get_title() for axes in figure.axes] == ["Linear Gaussian", "SIR", "", ""]
    for axes in figure.axes[:2]:
        assert axes.lines[1].get_ydata() == pytest.approx((LEVELS + LEVELS**3) / 2)
        (band,) = axes.collections
        assert band.get_paths()[0].vertices[:, 1].min() == 0
    for axes in figure.axes[2:]:
        assert axes.lines[1].get_ydata() == pytest.approx(LEVELS**2)
        assert [text.get_text() for text in axes.texts] == ["‡ clean"]
    assert "fewer seeds" in figure.get_supxlabel().replace("\n", " ")


@pytest.mark.parametrize("names", [["none"], ["none", "fim"]])
def test_many_tasks_take_several_rows(names):
    tasks = [f"task {i}" for i in range(9)]
    parts = [coverages(1.0, 0.0, task=task, defense=name) for task in tasks for name in names]
    panels = coverage_plot(table(*parts), rows="defense").axes
    titles = [task for i in (0, 5) for task in [*tasks[i : i + 5], *[""] * len(tasks[i : i + 5])]]
    assert [a.get_title() for a in panels] == (tasks if len(names) == 1 else titles)
    assert [bool(a.get_ylabel()) for a in panels].count(True) == 2 * len(names)
    columns = {}
    for axes in panels:
        columns.setdefault(axes.get_subplotspec().colspan.start, []).append(axes)
    assert [len(column) for column in columns.values()] == [2 * len(names)] * 4 + [len(names)]
    for *_, lowest in columns.values():
        assert all(tick.label1.get_visible() for tick in lowest.xaxis.get_major_ticks())


def test_many_defenses_of_one_task_take_several_rows():
    names = [f"fim beta={beta}" for beta in range(9)]
    curves = [coverages(1.0, 0.0, defense=name) for name in names]
    panels = coverage_plot(table(*curves), "defense").axes
    assert [a.get_subplotspec().get_geometry()[:2] for a in panels] == [(3, 3)] * 9
    titles = [axes.get_title().replace("\n", " ") for axes in panels]
    assert titles == [f"gl, FIM β={beta}" for beta in range(9)]


def test_clean_runs_alone_have_a_coverage_plot():
    figure = coverage_plot(table(coverages(1.5, 0.0)))
    assert figure.axes[0].get_title() == "gl, clean"
    assert figure.axes[0].lines[1].get_ydata() == pytest.approx(LEVELS**1.5)


def test_attacks_of_one_radius_are_never_pooled_under_a_defense():
    parts = (coverages(1.0, 0.0), coverages(2.0, 0.5), coverages(0.5, 0.5, attack="noise"))
    with pytest.raises(ValueError, match="attack"):
        coverage_plot(table(*parts), rows="defense")


def test_the_legend_has_the_radii_of_all_panels_in_one_colour_each(tmp_path):
    radii = {"gl": (0.5, 4.0), "sir": (0.25, 4.0)}
    parts = [coverages(1.0, 0.0, task=task) for task in radii]
    parts += [coverages(2.0, e, task=task) for task, epsilons in radii.items() for e in epsilons]
    figure = coverage_plot(table(*parts))
    (legend,) = figure.subfigs[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["clean", "0.25", "0.5", "4"]
    title = "perturbation radius, in standard deviations of x (L2)"
    assert legend.get_title().get_text() == title
    sir, gl = ({c.get_label(): c.get_color() for c in axes.lines} for axes in figure.axes)
    assert gl["4"] == sir["4"]
    assert len({gl["clean"], gl["0.5"], gl["4"], sir["0.25"]}) == 4
    assert "overconfident" in figure.get_supxlabel()
    save_figure(figure, tmp_path / "plot.png")


def test_an_attack_of_radius_0_does_not_change_the_clean_curve():
    still = [r | {"attack": "pgd", "objective": "kl_forward"} for r in coverages(9.0, 0.0)]
    (axes,) = coverage_plot(table(coverages(1.0, 0.0), still)).axes
    assert [line.get_label() for line in axes.lines] == ["_child0", "clean"]
    assert axes.lines[1].get_ydata() == pytest.approx(LEVELS)


def test_a_table_without_curves_has_nothing_to_draw():
    with pytest.raises(NothingToDrawError, match="coverage"):
        coverage_plot(table(divergences(1.0)))


def test_radii_with_a_flagged_attack_are_listed_in_the_corner():
    epsilons = (0.1, 0.2, 0.5, 1.0, 2.0)
    flags = [
        row(metric="soundness", statistic="flagged", epsilon=e, value=1.0) for e in (0.1, 0.2, 1.0)
    ]
    figure = coverage_plot(table(coverages(1.0, 0.0), *(coverages(2, e) for e in epsilons), flags))
    assert [text.get_text() for text in figure.axes[0].texts] == ["* 0.1 to 0.2, 1"]
    assert "flagged" in figure.get_supxlabel()


def test_panels_by_numbers_have_curves_and_missing_ones_are_told():
    rows = table(*(coverages(p, 0.5, beta=b, defense="fim") for p, b in ((2, 0.1), (3, 1.0))))
    figure = coverage_plot(rows, rows="beta")
    drawn = [dict(level_and_value(axes)) for axes in figure.subfigs[0].axes]
    assert [curves["0.5"][2] for curves in drawn] == pytest.approx([0.5**2, 0.5**3])
    assert "missing" not in figure.get_supxlabel()
    rows.loc[rows.beta == 1.0, "value"] = float("nan")
    figure = coverage_plot(rows, rows="beta")
    assert "Curves that are missing are not finite" in figure.get_supxlabel().replace("\n", " ")


def level_and_value(axes):
    return ((line.get_label(), line.get_ydata()) for line in axes.lines)


def test_a_curve_is_no_mean_of_the_seeds_that_are_finite():
    rows = table(coverages(2, 0.5), coverages(2, 0.5, seed=1))
    rows.loc[rows.seed == 1, "value"] = float("nan")
    (axes,) = coverage_plot(rows).subfigs[0].axes
    assert np.isnan(dict(level_and_value(axes))["0.5"]).all()
