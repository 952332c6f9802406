from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from robust_npe.plotting import (
    COLORS,
    NothingToDrawError,
    cost_plot,
    front_plot,
    tradeoff_plot,
)
from robust_npe.plotting.cells import not_told_from_zero
from robust_npe.plotting.describing import strengths_note
from robust_npe.plotting.fronts import outcomes
from robust_npe.plotting.losses import loss_axis
from tests.plotting.tables import clean, divergences, table

# radius 0.5: KL 10 without defense; FIM 5 and 1 (one seed, two seeds), adversarial training 2
NONE = [divergences(20.0), clean(1.0, 10.0), divergences(20.0, seed=1), clean(1.2, 20.0, seed=1)]
WEAK = {"defense": "fim", "beta": 0.01}
STRONG = {"defense": "fim", "beta": 0.1}
FIM = [
    divergences(10.0, **WEAK),
    clean(0.9, 20.0, **WEAK),
    divergences(2.0, **STRONG),
    clean(2.0, 30.0, **STRONG),
    divergences(4.0, seed=1, **STRONG),
    clean(2.4, 80.0, seed=1, **STRONG),
]
AT = {"defense": "adversarial_training", "defense_epsilon": 1.0}
ALL = table(*NONE, *FIM, divergences(4.0, **AT), clean(1.1, 50.0, **AT))


def drawn(axes, label):
    """Coordinates of the points of a defense, one after the other."""
    (entry,) = [line for line in axes.lines if line.get_label() == label]
    (line,) = [
        line
        for line in axes.lines
        if line.get_color() == entry.get_color() and line.get_alpha() == 0.8
    ]
    return line.get_xydata().ravel().tolist()


def test_likelihood_is_lost_against_no_defense_of_the_same_seed():
    runs = outcomes(ALL, 0.5)
    strong = runs[(runs.family == "fim") & (runs.beta == 0.1)].set_index("seed")
    assert (strong.nll - strong.nll_none).to_dict() == pytest.approx({0: 1.0, 1: 1.2})
    assert strong.kl.to_dict() == pytest.approx({0: 1.0, 1: 2.0})
    assert (strong.seconds / strong.seconds_none).to_dict() == pytest.approx({0: 3.0, 1: 4.0})


def test_front_joins_the_strengths_of_a_defense_and_shows_seeds():
    figure = front_plot(ALL, 0.5)
    (axes,) = figure.axes
    assert drawn(axes, "FIM") == pytest.approx([-0.1, 5.0, 1.1, 1.5])
    assert drawn(axes, "no defense") == pytest.approx([0.0, 10.0])
    assert drawn(axes, "adversarial training ‡") == pytest.approx([0.1, 2.0])
    whiskers = [c.lines[2][1].get_segments()[0][:, 1] for c in axes.containers]
    assert [1.0, 2.0] in [pytest.approx(list(w)) for w in whiskers]
    (legend,) = figure.subfigs[0].legends
    names = ["no defense", "FIM", "adversarial training ‡"]  # one seed all along
    assert "‡" in [text.get_text() for text in axes.texts]  # one seed of one strength
    assert sum("‡" in text.get_text() for text in axes.texts) == 1
    assert [text.get_text() for text in legend.get_texts()] == names
    assert axes.get_yscale() == "log"
    assert axes.get_xlabel() == "clean negative log likelihood,\nin nats above no defense"
    caption = figure.get_supxlabel().replace("\n", " ")
    assert "β 0.01, 0.1" in caption
    assert "means over 2 seeds" in caption
    assert "‡: fewer seeds" in caption
    assert "Radius: in standard deviations of x (L2)." in caption


def test_cost_is_a_ratio_of_times_and_hollow_where_likelihood_is_lost():
    (axes,) = cost_plot(ALL, 0.5).axes
    assert drawn(axes, "FIM") == pytest.approx([2.0, 2.0, 3.5, 7.5])
    faces = {
        tuple(line.get_xydata()[0].round(3)): line.get_markerfacecolor()
        for line in axes.lines
        if line.get_marker() != "None" and len(line.get_xydata())
    }
    assert faces[3.5, 7.5] == "white"
    assert faces[2.0, 2.0] == COLORS["fim"]


def test_tradeoff_has_a_colour_for_each_beta():
    figure = tradeoff_plot(ALL, 0.5)
    axes, bar = figure.axes
    dots = [line for line in axes.lines if line.get_marker() in "so"]
    assert [line.get_marker() for line in dots] == ["s", "o", "o"]
    assert len({str(line.get_color()) for line in dots}) == 3
    assert dots[0].get_color() == COLORS["none"]
    assert bar.get_ylabel() == "β"
    assert bar.get_ylim() == pytest.approx((0.01, 0.1))
    with pytest.raises(NothingToDrawError, match="trades"):
        tradeoff_plot(ALL, 0.5, defense="trades")


def test_what_a_front_needs():
    with pytest.raises(NothingToDrawError, match="no undefended runs of gl, seed 0"):
        front_plot(table(*FIM), 0.5)
    with pytest.raises(NothingToDrawError, match=r"kl_forward at radius 0\.7"):
        front_plot(ALL, 0.7)
    with pytest.raises(NothingToDrawError, match="seconds"):
        cost_plot(ALL[ALL.statistic != "seconds"], 0.5)


def test_costs_need_a_divergence_to_compare_with():
    quiet = [divergences(0.0, task="sir"), clean(1.0, 5.0, task="sir")]
    figure = cost_plot(pd.concat([ALL, table(*quiet)]), 0.5)
    assert [axes.get_title() for axes in figure.axes] == ["gl"]
    assert "so not drawn: SIR." in figure.get_supxlabel().replace("\n", " ")
    with pytest.raises(NothingToDrawError, match="above its resolution"):
        cost_plot(table(*quiet), 0.5)


def test_what_is_not_above_its_resolution_is_hollow_at_the_end_of_the_axis():
    nothing = {"defense": "trades", "beta": 1.0}
    rows = pd.concat([ALL, table(divergences(0.0, **nothing), clean(1.3, 5.0, **nothing))])
    figure = front_plot(rows, 0.5)
    (axes,) = figure.axes
    bottom = axes.get_ylim()[0]
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert [line.get_xydata().ravel().tolist() for line in hollow] == [pytest.approx([0.3, bottom])]
    assert "not told from zero" in figure.get_supxlabel().replace("\n", " ")


@pytest.mark.parametrize("columns", [3, 6])
def test_ticks_of_lost_likelihood_leave_room_for_their_labels(columns):
    axes = Figure().subplots()
    x = pd.Series([-0.6, -0.1, 0.0, 0.4, 2.5, 4.0])
    (note,) = loss_axis(axes, x, columns)
    assert "logarithmic beyond 0.5" in note
    axes.plot(x, x)
    low, high = axes.transScale.transform([(v, 1) for v in axes.get_xlim()])[:, 0]
    ticks = axes.transScale.transform([(t, 1) for t in axes.get_xticks()])[:, 0]
    assert (np.diff(ticks) > 0.04 * columns * (high - low)).all()
    assert 0 in axes.get_xticks()
    assert len(ticks) >= 3
    assert loss_axis(Figure().subplots(), pd.Series([0.0, 1.0])) == []


def test_strengths_that_vary_together_are_told_together():
    runs = pd.DataFrame({"task": "sir", "family": "trades", "defense": "trades"}, index=range(3))
    runs = runs.assign(beta=[10.0, 0.1, 1.0], defense_epsilon=[1.0, 0.1, 0.5])
    (note,) = strengths_note(runs)
    assert note.endswith("TRADES, β / training radius 0.1 / 0.1, 1 / 0.5, 10 / 1.")


def test_losses_of_any_size_have_ticks_near_the_largest():
    axes = Figure().subplots()
    loss_axis(axes, pd.Series([0.0, 1.0, 7e4]))
    assert axes.get_xticks()[-1] == 1e5
    assert axes.get_xticklabels()[-1].get_text() == "$10^{5}$"


def test_an_estimate_that_failed_is_not_drawn_as_zero():
    value = pd.Series([0.01, 0.01, 5.0, 8e4, -0.1, np.inf, -3.0])
    error = pd.Series([0.001, 0.01, 0.1, 5e4, 0.2, np.inf, 9.0])
    told = [False, True, False, False, True, False, True]
    assert not_told_from_zero(value, error).tolist() == told
