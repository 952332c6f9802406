"""What all plot functions share: they refuse mixed tables, and look as they did."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from robust_npe import plotting
from robust_npe.plotting.style import style
from tests.plotting.tables import clean, coverages, divergences, table

PICTURES = Path(__file__).parent / "pictures"
FIM = {"defense": "fim", "beta": 0.1}


def results():
    """Two tasks, without defense and with FIM, two seeds; true posteriors are known."""
    parts = []
    for task, base in (("gaussian_linear", 20.0), ("sir", 5.0)):
        for factor, keys in ((1.0, {}), (0.1, FIM)):
            for seed in (0, 1):
                k = {"task": task, "seed": seed, **keys}
                moved = base * factor * (1 + seed / 2)
                parts += [divergences(moved, **k), clean(1.5 - factor / 2, 5 / factor, **k)]
                parts += [divergences(0.1 / factor, metric="error", **k)]
                parts += [divergences(base, metric="legitimate_movement", **k)]
                parts += [coverages(p, e, **k) for e, p in ((0.0, 1), (0.5, 2), (2.0, 6))]
    return table(*parts)


def with_noise(rows):
    quiet = rows[(rows.attack == "pgd") & (rows.metric == "kl_forward")]
    quiet = quiet.assign(attack="noise", objective="", value=0.01 * quiet.value)
    return pd.concat([rows, quiet], ignore_index=True)


UNDEFENDED = "defense == 'none'"
PLOTS = {
    "tolerance": lambda t: plotting.tolerance_plot(t, compare="defense"),
    "coverage": lambda t: plotting.coverage_plot(t, rows="defense"),
    "attacks": lambda t: plotting.attacks_figure(with_noise(t.query(UNDEFENDED))),
    "defenses": lambda t: plotting.defenses_figure(t, t, 0.5),
    "front": lambda t: plotting.front_plot(t, 0.5),
    "cost": lambda t: plotting.cost_plot(t, 0.5),
    "tradeoff": lambda t: plotting.tradeoff_plot(t, 0.5),
    "by_setting": lambda t: plotting.by_setting_plot(t, "beta"),
    "movement": plotting.movement_plot,
    "true_posterior": plotting.true_posterior_plot,
    "attack_strength": lambda t: plotting.attack_strength_plot(with_noise(t.query(UNDEFENDED))),
    "run_time": lambda t: plotting.run_time_plot(t, x="defense"),
    "analytic_bound": lambda t: plotting.analytic_bound_plot(t.query(UNDEFENDED)),
}


@pytest.mark.parametrize("name", PLOTS)
@pytest.mark.parametrize("column", ["domain", "num_simulations"])
def test_no_plot_pools_runs_that_differ(name, column):
    rows = results()
    if name == "run_time" and column == "domain":
        pytest.skip("trainings have no domain")
    other = rows.assign(run_id=rows.run_id + " other", value=1.1 * rows.value)
    attacked = other.attack != "none"
    if column == "domain":
        other.loc[attacked, "domain"] = "task"
        other = other[attacked]
    else:
        other["num_simulations"] = 7
    with pytest.raises(ValueError, match=f"mix {column} "):
        PLOTS[name](pd.concat([rows, other], ignore_index=True))


@pytest.mark.parametrize("name", PLOTS)
def test_no_plot_mixes_scales(name):
    rows = results().assign(scale="laptop")
    other = rows.assign(run_id=rows.run_id + " other", seed=7, scale="smoke")
    with pytest.raises(ValueError, match="mix scale laptop, smoke"):
        PLOTS[name](pd.concat([rows, other], ignore_index=True))


BESIDE = ["tolerance", "coverage", "by_setting"]


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize(("column", "value"), [("attack", "noise"), ("num_simulations", 7)])
def test_lines_differ_in_what_they_are_told_apart_by_alone(name, column, value):
    rows = results()
    changed = (rows.defense == "fim") & (rows.attack != "none")
    rows.loc[changed, column] = value
    with pytest.raises(plotting.MixedRunsError, match=f"mix {column} "):
        PLOTS[name](rows)


@pytest.mark.parametrize("name", PLOTS)
def test_a_table_that_is_not_tidy_says_what_it_lacks(name):
    bare = pd.DataFrame({"defense": ["none"], "attack": ["pgd"], "metric": ["nll"], "value": [1.0]})
    for lacking in (bare, results().drop(columns="metric" if "attack" not in name else "seed")):
        with pytest.raises(plotting.UntidyTableError, match="the table lacks"):
            PLOTS[name](lacking)


@pytest.mark.parametrize("column", ["value", "epsilon", "beta", "num_simulations"])
def test_texts_in_place_of_numbers_are_told(column):
    rows = results().astype({column: object}).assign(**{column: "abc"})
    for draw in (plotting.tolerance_plot, plotting.coverage_plot, plotting.movement_plot):
        with pytest.raises(plotting.UntidyTableError, match="has 'abc', which is not a number"):
            draw(rows)


@pytest.mark.parametrize(
    ("column", "value", "what"),
    [
        ("task", math.nan, "nan, which is not a text"),
        ("task", 3, "3, which is not a text"),
        ("metric", None, "None, which is not a text"),
        ("value", b"1.0", "b'1.0', which is not a number"),
        ("seed", "0", "'0', which is not a number"),
        ("epsilon", math.nan, "nan: it must be a radius, or 0"),
        ("epsilon", math.inf, "inf: it must be a radius"),
        ("epsilon", -1.0, "-1: it must be a radius"),
        ("norm", b"l2", "b'l2', which is not a text"),
        ("domain", 3, "3, which is not a text"),
        ("seed", math.nan, "nan: runs are told apart by their seeds"),
    ],
)
def test_values_that_do_not_belong_into_a_column_are_told(column, value, what):
    rows = results().astype({column: object})
    rows.loc[rows.index[-1], column] = value
    for name in BESIDE:
        with pytest.raises(plotting.UntidyTableError, match=f"the column {column} has {what}"):
            PLOTS[name](rows)


def test_a_coverage_curve_without_levels_is_told():
    rows = results()
    rows.loc[rows.statistic == "coverage", "level"] = math.nan
    with pytest.raises(plotting.UntidyTableError, match="the column level has nan"):
        plotting.coverage_plot(rows, "defense")


def test_categories_are_drawn_as_their_values():
    rows = results()
    columns = ["task", "defense", "attack", "epsilon", "metric", "statistic", "num_simulations"]
    categories = rows.astype(dict.fromkeys(columns, "category"))
    for name in BESIDE:
        np.testing.assert_array_equal(*(pixels(PLOTS[name](each)) for each in (rows, categories)))


def test_numbers_of_any_type_are_drawn():
    rows = results()
    nullable = rows.convert_dtypes().astype({"epsilon": "Float64", "num_simulations": object})
    np.testing.assert_array_equal(*(pixels(PLOTS["by_setting"](t)) for t in (rows, nullable)))


def test_captions_tell_of_what_is_drawn_alone():
    rows = results()
    rows.loc[rows.task == "sir", "num_simulations"] = 7
    gone = (rows.task == "sir") & rows.metric.isin(["legitimate_movement", "kl_forward"])
    for draw in (plotting.movement_plot, PLOTS["tolerance"]):
        caption = draw(rows[~gone]).get_supxlabel()
        assert "100 simulations" in caption
        assert "SIR" not in caption


@pytest.mark.parametrize("name", ["front", "cost", "tolerance", "coverage"])
def test_seeds_are_counted_in_each_task(name):
    rows = results().query("seed == 0")
    rows = rows.assign(seed=rows.seed.where(rows.task == "sir", 4))
    caption = PLOTS[name](rows).get_supxlabel().replace("\n", " ")
    assert "eans over" not in caption
    assert "seed 4 (SIR: 0)" in caption


def test_large_counts_are_whole_numbers():
    rows = results()
    rows = rows.assign(num_simulations=rows.num_simulations * 1e5)
    labels = plotting.by_setting_plot(rows.query(UNDEFENDED), "num_simulations").subfigs[1]
    assert [t.get_text() for t in labels.axes[0].get_xticklabels()] == ["10\u2009000\u2009000"]


def test_bars_that_leave_a_panel_are_told():
    rows = results()
    cut = "Bars at an end of the axis go on"
    assert cut not in PLOTS["tolerance"](rows).get_supxlabel().replace("\n", " ")
    rows.loc[(rows.metric == "kl_forward") & (rows.statistic == "q15"), "value"] = -1e9
    assert cut in PLOTS["tolerance"](rows).get_supxlabel().replace("\n", " ")


def test_counts_that_are_not_finite_are_not_told():
    assert PLOTS["tolerance"](results().assign(num_simulations=np.inf))


def test_a_column_that_is_not_there_is_named():
    for draw in (plotting.tolerance_plot, plotting.by_setting_plot, plotting.coverage_plot):
        name = "rows" if draw is plotting.coverage_plot else "compare"
        with pytest.raises(plotting.UntidyTableError, match="the table lacks colour"):
            draw(results(), **{name: "colour"})


def pixels(figure, width=340):
    """The picture, small, as numbers between 0 and 1."""
    with style():
        figure.set_dpi(2 * width / figure.get_figwidth())
        figure.canvas.draw()
    drawn = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    height = round(width * drawn.height / drawn.width)
    return drawn.resize((width, height), Image.Resampling.BOX).quantize(32).convert("RGB")


@pytest.mark.parametrize("name", ["attacks", "defenses", "front", "by_setting", "movement"])
def test_pictures_are_as_they_were(name):
    """After a wanted change, delete a picture to have it drawn again, and look at it."""
    path = PICTURES / f"{name}.png"
    drawn = pixels(PLOTS[name](results()))
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        drawn.save(path, optimize=True)
    with Image.open(path) as stored:
        before = np.asarray(stored.convert("RGB"), float) / 255
    now = np.asarray(drawn, float) / 255
    assert now.shape == before.shape
    assert np.abs(now - before).mean() < 0.003


@pytest.mark.parametrize("name", ["by_setting", "movement"])
def test_more_tasks_than_fit_beside_one_another_take_several_rows(name):
    rows = results()
    one = rows[rows.task == rows.task.iloc[0]]
    tasks = [f"task {i}" for i in range(8)]
    many = [one.assign(task=task, run_id=one.run_id + task) for task in tasks]
    figure = PLOTS[name](pd.concat(many, ignore_index=True))
    for place in figure.subfigs:
        titled = [axes for axes in place.axes if axes.get_title()]
        assert [axes.get_title() for axes in titled] == tasks
        assert max(axes.get_gridspec().ncols for axes in titled) <= 4
    first = figure.subfigs[0].axes
    for axes in first:
        assert bool(axes.get_ylabel()) == (axes.get_subplotspec().colspan.start == 0)
    assert len(first) % len(tasks) == 0
