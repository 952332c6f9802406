from __future__ import annotations

import math

import pytest
from pandas.testing import assert_frame_equal

from robust_npe.plotting import NothingToDrawError, tolerance_plot
from robust_npe.plotting.cells import cells, points
from tests.plotting.tables import clean, divergences, noise, row, table


def marks(rows, metric="kl_forward"):
    return points(cells(rows, [metric]), metric).mark.to_dict()


def test_clean_rows_that_several_runs_measured_count_once():
    both = clean(1.0, 5.0), clean(1.0, 5.0)
    rows = table(*both).assign(run_id=["pgd"] * len(both[0]) + ["noise"] * len(both[1]))
    assert len(cells(rows, ["nll"])) == 4
    rows.loc[(rows.run_id == "noise") & (rows.metric == "nll"), "value"] += 1
    with pytest.raises(ValueError, match="pgd, noise have equal settings"):
        cells(rows, ["nll"])


def test_points_are_means_over_seeds_with_their_range():
    rows = table(divergences(1.0, seed=0), divergences(3.0, seed=1))
    point = points(cells(rows, ["kl_forward"]), "kl_forward").loc[0.5]
    assert point.middle == pytest.approx(1.0)
    assert (point.q15, point.q85) == pytest.approx((0.5, 3.0))
    assert (point.least, point.most) == pytest.approx((0.5, 1.5))
    alone = points(cells(table(divergences(1.0)), ["kl_forward"]), "kl_forward")
    assert alone.least.isna().all()


@pytest.mark.parametrize(
    "against",
    [
        row(metric="soundness", statistic="flagged", epsilon=0.5, value=1.0),
        row(metric="attack", statistic="zero_gradient_fraction", epsilon=0.5, value=0.06),
    ],
)
def test_a_flagged_attack_marks_its_radius(against):
    harmless = {**against, "epsilon": 2.0, "value": 0.0}
    assert marks(table(divergences(1.0), [against, harmless])) == {0.1: "", 0.5: "*", 2.0: ""}


def test_a_diverged_training_and_fewer_seeds_are_marked():
    rows = table(
        divergences(1.0, seed=0),
        clean(1.0, 5.0, diverged=1.0, seed=0),
        [r for r in divergences(1.0, seed=1) if r["epsilon"] < 2],
    )
    assert marks(rows) == {0.1: "†", 0.5: "†", 2.0: "†‡"}
    figure = tolerance_plot(rows)
    texts = figure.axes[0].texts
    assert [(text.get_text(), text.xy[0]) for text in texts] == [("‡", 2), ("†", 2)]
    assert {text.get_color() for text in texts} == {figure.axes[0].lines[0].get_color()}
    caption = figure.get_supxlabel().replace("\n", " ")
    assert "†: a training diverged" in caption
    assert "‡: fewer seeds" in caption
    assert "at the end of a line is about all of its points" in caption
    assert "flagged" not in caption


def test_below_two_standard_errors_is_zero_only_where_nothing_is_negative():
    rows = cells(table(divergences(-1.0)), ["kl_forward"])
    assert (points(rows, "kl_forward").middle < 0).all()
    assert (points(rows, "kl_forward", positive=True).middle == 0).all()


def test_a_missing_metric_is_named():
    with pytest.raises(NothingToDrawError, match="mmd"):
        cells(table(divergences(math.pi)), ["mmd"])


def test_empty_settings_may_be_missing_values():
    """As `pandas.read_csv` returns them."""
    rows = table(divergences(1.0), divergences(2.0, defense="fim", beta=0.1)).assign(run_id="a")
    read = rows.assign(defense_settings=math.nan, attack_settings=math.nan)
    assert_frame_equal(cells(read, ["kl_forward"]), cells(rows, ["kl_forward"]), check_dtype=False)


def test_a_table_without_its_columns_is_refused():
    rows = table(divergences(1.0)).assign(run_id="a").drop(columns=["attack", "seed"])
    with pytest.raises(ValueError, match=r"lacks attack, seed"):
        cells(rows, ["kl_forward"])


def test_lines_of_other_seeds_are_marked():
    rows = cells(table(divergences(1.0), noise(0.1, seed=2)), ["kl_forward"])
    assert rows.fewer.all()  # each has one of two
    rows = cells(table(divergences(1.0, seed=2), noise(0.1, seed=2)), ["kl_forward"])
    assert not rows.fewer.any()
