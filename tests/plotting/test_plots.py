from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from robust_npe.plotting import (
    COLORS,
    EPSILON_COLORS,
    coverage_plot,
    save_figure,
    style,
    tolerance_plot,
)
from robust_npe.plotting.overview import comparable, draw_overview
from robust_npe.plotting.style import epsilon_color, line_colors

EPSILONS = [0.1, 0.5, 2.0]
LEVELS = np.linspace(0, 1, 5)

# drawing text with the tested matplotlib uses names that pyparsing has deprecated
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def row(**changes):
    defaults = {
        "task": "gl",
        "estimator": "maf",
        "defense": "none",
        "beta": math.nan,
        "defense_epsilon": math.nan,
        "num_simulations": 100,
        "seed": 0,
        "data_seed": 0,
        "attack": "pgd",
        "norm": "l2",
        "objective": "kl_forward",
        "attack_settings": "",
        "domain": "data",
        "epsilon": 0.1,
        "epsilon_unit": "std",
        "metric": "kl_forward",
        "statistic": "median",
        "level": math.nan,
        "value": 1.0,
    }
    assert set(changes) <= set(defaults)
    return {**defaults, **changes}


def divergences(base, metric="kl_forward", **keys):
    """Medians base * epsilon, with asymmetric quantiles around them."""
    factors = {"median": 1.0, "q15": 0.5, "q85": 3.0, "mean": 100.0}
    return [
        row(metric=metric, epsilon=e, statistic=s, value=base * e * f, **keys)
        for e in EPSILONS
        for s, f in factors.items()
    ]


def coverages(power, epsilon, attack="pgd", **keys):
    name = "none" if epsilon == 0 else attack
    objective = "" if name in ("none", "noise") else "kl_forward"
    shared = {"metric": "coverage", "epsilon": epsilon, "attack": name, "objective": objective}
    curve = [row(statistic="coverage", level=x, value=x**power, **shared, **keys) for x in LEVELS]
    return [*curve, row(statistic="signed_area", value=0.3, **shared, **keys)]


def table(*parts):
    return pd.DataFrame([r for part in parts for r in part])


def lines(axes, label):
    """Line, lower and upper ends of its error bars."""
    for container in axes.containers:
        if container.get_label() == label:
            data, _, (bars,) = container.lines
            segments = np.array(bars.get_segments())
            return data, segments[:, 0, 1], segments[:, 1, 1]
    raise AssertionError(f"no line {label} in {[c.get_label() for c in axes.containers]}")


def noise(base, **keys):
    return divergences(base, attack="noise", objective="", **keys)


def test_tolerance_draws_medians_and_quantiles_of_the_table():
    figure = tolerance_plot(table(divergences(2.0), noise(0.1)))
    (axes,) = figure.axes
    for label, base in (("pgd", 2.0), ("noise", 0.1)):
        data, low, high = lines(axes, label)
        expected = base * np.array(EPSILONS)
        assert data.get_ydata() == pytest.approx(expected)
        assert low == pytest.approx(0.5 * expected)
        assert high == pytest.approx(3 * expected)
        assert np.round(np.asarray(data.get_xdata(), float)) == pytest.approx(
            [0, 1, 2]
        )  # equally spaced
        assert data.get_color() == COLORS[label]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0.1", "0.5", "2"]
    assert axes.get_yscale() == "log"
    assert axes.get_title() == "gl"
    assert "std" in axes.get_xlabel()
    assert "l2" in axes.get_xlabel()


def test_tolerance_has_one_panel_per_task_and_the_wanted_metric():
    parts = (
        divergences(1.0),
        divergences(5.0, metric="kl_reverse"),
        divergences(7.0, task="lv", metric="kl_reverse"),
    )
    figure = tolerance_plot(table(*parts), metric="kl_reverse")
    assert [axes.get_title() for axes in figure.axes] == ["gl", "lv"]
    for axes, base in zip(figure.axes, (5.0, 7.0), strict=True):
        assert lines(axes, "pgd")[0].get_ydata() == pytest.approx(base * np.array(EPSILONS))


def test_tolerance_averages_over_seeds_and_separates_defenses():
    parts = (
        divergences(1.0, seed=0),
        divergences(3.0, seed=1),
        divergences(10.0, defense="fim", beta=0.1),
    )
    (axes,) = tolerance_plot(table(*parts), compare="defense").axes
    assert lines(axes, "none")[0].get_ydata() == pytest.approx(2 * np.array(EPSILONS))
    assert lines(axes, "fim")[0].get_ydata() == pytest.approx(10 * np.array(EPSILONS))
    assert lines(axes, "fim")[0].get_color() == COLORS["fim"]


def test_tolerance_compares_betas_including_none():
    parts = (divergences(1.0), divergences(2.0, defense="fim", beta=0.1))
    (axes,) = tolerance_plot(table(*parts), compare="beta").axes
    assert lines(axes, "nan")[0].get_ydata() == pytest.approx(np.array(EPSILONS))
    assert lines(axes, "0.1")[0].get_ydata() == pytest.approx(2 * np.array(EPSILONS))


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
    (axes,) = tolerance_plot(table(*parts)).axes
    drawn = sorted(tuple(line.get_ydata()) for line in dashed(axes))
    assert len(drawn) == 2
    assert drawn[0] == pytest.approx(0.05 * np.array(EPSILONS))
    assert drawn[1] == pytest.approx(np.array(EPSILONS))
    (legend,) = axes.figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels.count("true posterior") == 1


def test_no_dashed_line_where_the_true_posterior_is_unknown():
    assert dashed(tolerance_plot(table(divergences(2.0))).axes[0]) == []


@pytest.mark.parametrize(
    "other",
    [
        {"norm": "linf"},
        {"objective": "nll"},
        {"attack_settings": "steps=20"},
        {"domain": "none"},
        {"defense": "fim"},
        {"estimator": "nsf"},
        {"num_simulations": 7},
        {"beta": 0.1},
        {"epsilon_unit": "absolute"},
    ],
)
def test_different_settings_are_never_averaged(other):
    name = next(iter(other))
    with pytest.raises(ValueError, match=name):
        tolerance_plot(table(divergences(1.0), divergences(2.0, **other)))
    if name != "objective":
        clean = coverages(1.0, 0.0), coverages(1.0, 0.0, **other)
        with pytest.raises(ValueError, match=name):
            coverage_plot(table(*clean))


def test_coverage_draws_the_curves_of_the_table():
    parts = (coverages(1.0, 0.0), coverages(2.0, 0.5), coverages(0.5, 0.5, attack="noise"))
    figure = coverage_plot(table(*parts))
    assert [axes.get_title() for axes in figure.axes] == ["gl, attack pgd", "gl, attack noise"]
    for axes, power in zip(figure.axes, (2.0, 0.5), strict=True):
        curves = {line.get_label(): line for line in axes.lines}
        for label, p, epsilon in (("0", 1.0, 0.0), ("0.5", power, 0.5)):
            assert curves[label].get_xdata() == pytest.approx(LEVELS)
            assert curves[label].get_ydata() == pytest.approx(LEVELS**p)
            assert curves[label].get_color() == EPSILON_COLORS[epsilon]
        diagonal = curves.pop("_child0")
        assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 1]
        assert set(curves) == {"0", "0.5"}


def test_coverage_averages_over_seeds_and_separates_defenses():
    parts = (
        coverages(1.0, 0.0),
        coverages(3.0, 0.0, seed=1),
        coverages(2.0, 0.0, defense="fim"),
    )
    figure = coverage_plot(table(*parts), rows="defense")
    expected = {"gl, defense none": (LEVELS + LEVELS**3) / 2, "gl, defense fim": LEVELS**2}
    assert {axes.get_title() for axes in figure.axes} == set(expected)
    for axes in figure.axes:
        assert axes.lines[1].get_ydata() == pytest.approx(expected[axes.get_title()])


def test_clean_runs_alone_have_a_coverage_plot():
    figure = coverage_plot(table(coverages(1.5, 0.0)))
    assert figure.axes[0].lines[1].get_ydata() == pytest.approx(LEVELS**1.5)


def test_lines_of_one_defense_are_shades_of_its_colour():
    labels = ["fim beta=0.001", "fim beta=0.01", "fim beta=0.1", "none", "mine a=1", "mine a=2"]
    colors = line_colors(labels)
    assert len(set(colors.values())) == len(labels)
    assert colors["none"] == COLORS["none"]
    assert colors["fim beta=0.1"] == COLORS["fim"]
    brightness = [sum(to_rgb(colors[label])) for label in labels[:3]]
    assert brightness == sorted(brightness, reverse=True)
    assert brightness[0] < 2.8  # still visible on white
    assert not {colors["mine a=1"], colors["mine a=2"]} & set(COLORS.values())


def test_attacks_of_one_radius_are_never_pooled_under_a_defense():
    parts = (coverages(1.0, 0.0), coverages(2.0, 0.5), coverages(0.5, 0.5, attack="noise"))
    with pytest.raises(ValueError, match="attack"):
        coverage_plot(table(*parts), rows="defense")


def test_overview_draws_attacks_with_different_settings_apart(tmp_path):
    parts = []
    for base, defense, settings, domain in (
        (1.0, "none", "", "data"),
        (2.0, "none", "steps=20", "data"),
        (3.0, "fim", "", "data"),
        (4.0, "fim", "steps=20", "data"),
        (5.0, "none", "", "none"),
    ):
        attacked = divergences(base, defense=defense, attack_settings=settings, domain=domain)
        clean = coverages(1.0, 0.0, defense=defense, norm="", domain="")
        parts.append(table(attacked, clean).assign(run_id=f"run {base}"))
    results = pd.concat(parts)
    split = dict(comparable(results))
    assert set(split) == {f"maf_n100_l2_std_{domain}_kl_forward" for domain in ("data", "none")}
    part = split["maf_n100_l2_std_data_kl_forward"]
    assert set(part.attack) == {"none", "pgd", "pgd steps=20"}
    (axes,) = tolerance_plot(part[part.defense == "none"]).axes
    for label, base in (("pgd", 1.0), ("pgd steps=20", 2.0)):
        assert lines(axes, label)[0].get_ydata() == pytest.approx(base * np.array(EPSILONS))
    names = {path.name for path in draw_overview(results, tmp_path)}
    for settings in ("", "_steps=20"):
        assert f"defenses_maf_n100_l2_std_data_kl_forward{settings}.png" in names


def test_empty_tables_are_refused():
    with pytest.raises(ValueError, match="kl_reverse"):
        tolerance_plot(table(divergences(1.0)), metric="kl_reverse")
    with pytest.raises(ValueError, match="kl_forward"):
        tolerance_plot(table(divergences(1.0, attack="none", objective="")))
    with pytest.raises(ValueError, match="coverage"):
        coverage_plot(table(divergences(1.0)))


def test_published_radii_have_their_colours_and_others_differ():
    assert epsilon_color(0.5, [0.0, 0.5, 1.0]) == "#e31a1c"
    odd = [0.0, 0.25, 0.5, 4.0]
    colors = [epsilon_color(e, odd) for e in odd]
    assert colors[0] == EPSILON_COLORS[0.0]
    assert len(set(colors)) == 4
    assert epsilon_color(0.7, [0.7]) == epsilon_color(0.7, [0.0, 0.7])


def test_style_and_saving_leave_global_settings_alone(tmp_path):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    figure = tolerance_plot(table(divergences(1.0)))
    save_figure(figure, tmp_path / "plot.png")
    assert dict(mpl.rcParams) == before
    with style():
        assert mpl.rcParams["font.size"] == 9
    assert [p.name for p in tmp_path.iterdir()] == ["plot.png"]
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    first = (tmp_path / "plot.png").read_bytes()
    save_figure(tolerance_plot(table(divergences(1.0))), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes() == first  # equal data, equal bytes
    save_figure(coverage_plot(table(coverages(1.0, 0.0))), tmp_path / "curve.pdf")
    assert (tmp_path / "curve.pdf").stat().st_size > 1000


def test_values_that_a_logarithm_cannot_show_do_not_break_the_plot(tmp_path):
    # estimates of tiny divergences may come out negative, broken runs non-finite
    parts = divergences(1.0)
    for r in parts:
        if r["epsilon"] == 0.1 and r["statistic"] in ("median", "q15"):
            r["value"] = -1e-3
        if r["epsilon"] == 0.5:
            r["value"] = math.nan
    save_figure(tolerance_plot(table(parts)), tmp_path / "plot.png")
