from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from robust_npe.plotting import COLORS, NothingToDrawError
from robust_npe.plotting.examples import examples_figure
from robust_npe.plotting.neuron import neuron_figure
from robust_npe.plotting.observations import STATE_COLORS
from robust_npe.plotting.pairs import _ticks, draw_regions, most_moved, parameter_name
from robust_npe.plotting.saving import caption_of
from tests.plotting.example_tables import LEVELS, TIMES, example


def blocks(figure):
    return [block for block in figure.subfigs[0].subfigs if block.subfigs]


def test_each_task_has_observations_above_a_pair_plot():
    names = ("a", "b", "c")
    tables = [example(), example("lotka_volterra", names=names, series=("prey", "predator"))]
    figure = examples_figure(pd.concat([*tables, example("vae", series=())]))
    assert [block.get_suptitle().split(",")[0] for block in blocks(figure)] == [
        "Lotka-Volterra",
        "VAE",
        "SIR",
    ]
    assert "1.2 nats" in blocks(figure)[0].get_suptitle()
    above, below = zip(*(block.subfigs for block in blocks(figure)), strict=True)
    assert [len(f.axes) for f in above] == [4, 4, 2]
    assert [len(f.axes) for f in below] == [6, 3, 3]
    assert [len(axes.images) for axes in above[1].axes] == [1, 1, 1, 1]
    (legend,) = [legend for block in figure.subfigs[0].subfigs for legend in block.legends]
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(labels) == 4
    assert "attacked" in labels[1]
    assert "median" in figure.get_supxlabel()
    assert "smoke scale" in figure.get_supxlabel()


def test_observations_lie_over_bands_of_their_own_state():
    figure = examples_figure(example())
    clean, attacked = blocks(figure)[0].subfigs[0].axes
    for axes, (state, color) in zip((clean, attacked), STATE_COLORS.items(), strict=True):
        assert {to_hex(band.get_facecolor()[0][:3]) for band in axes.collections} == {color}
        (line,) = axes.lines
        shift = 0 if state == "clean" else 2
        np.testing.assert_allclose(line.get_ydata(), np.sin(TIMES) + shift)
        widest = axes.collections[0].get_paths()[0].vertices
        assert widest[:, 1].max() == pytest.approx(1 + LEVELS["q99"], abs=0.2)


def test_densities_are_of_both_states_and_truth_is_marked():
    below = blocks(examples_figure(example()))[0].subfigs[1]
    marginal, pair, _ = below.axes
    curves = {line.get_linestyle(): line for line in marginal.lines[:2]}
    peaks = {style: line.get_xdata()[np.argmax(line.get_ydata())] for style, line in curves.items()}
    assert peaks["--"] - peaks["-"] == pytest.approx(2, abs=0.4)  # the planted shift
    assert marginal.lines[2].get_xdata()[0] == 0
    assert pair.lines[0].get_marker() == "+"
    assert (pair.get_xlabel(), pair.get_ylabel()) == (r"$\beta$", r"$\gamma$")


def test_a_training_that_diverged_is_marked():
    for draw in (examples_figure, neuron_figure):
        caption = draw(example(diverged=1)).get_supxlabel()
        assert "†" in caption
        assert "diverged" in caption
        assert "†" not in draw(example()).get_supxlabel()
    figure = examples_figure(pd.concat([example(diverged=1), example(task="vae")]))
    titles = [block.get_suptitle().split("\n")[0] for block in blocks(figure)[:2]]
    assert titles == ["VAE, radius 0.2", "SIR†, radius 0.2"]


def test_the_caption_tells_the_settings_of_each_task():
    trades = {"defense": "trades", "beta": 0.1}
    tables = [example(**trades, defense_epsilon=0.5)]
    caption = caption_of(examples_figure(pd.concat(tables)))
    assert "TRADES: β 0.1; training radius 0.5." in caption
    tables += [example("vae", series=(), **trades, defense_epsilon=0.1)]
    caption = caption_of(examples_figure(pd.concat(tables)))
    assert "TRADES: β 0.1; training radius" in caption
    assert "training radius 0.1 (SIR: 0.5)" in caption


def test_only_the_parameters_that_move_most_are_drawn_and_the_caption_says_so():
    names = tuple("abcdef")
    figure = examples_figure(example(names=names), parameters=2)
    assert len(blocks(figure)[0].subfigs[1].axes) == 3
    assert "the 2 of 6 parameters" in caption_of(figure)


def test_most_moved_are_in_their_order():
    rows = example(names=("a", "b", "c"))
    rows.loc[(rows.name == "c") & (rows.state == "attacked"), "value"] += 1
    samples = rows[rows.what == "posterior"]
    assert most_moved(samples, 1) == ["a"]
    assert most_moved(samples, 2) == ["a", "c"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"beta": 0.5}, {"epsilon": 2.0}])
def test_two_examples_of_a_task_are_not_mixed(change):
    mixed = pd.concat([example(), example(**change)])
    (name,) = change
    for draw in (examples_figure, neuron_figure):
        with pytest.raises(ValueError, match=f"mix {name}"):
            draw(mixed)
    with pytest.raises(ValueError, match="mix defense"):
        examples_figure(pd.concat([example(), example(defense="fim")]))


@pytest.mark.parametrize("draw", [examples_figure, neuron_figure])
def test_nothing_to_draw(draw):
    with pytest.raises(NothingToDrawError):
        draw(example().iloc[:0])


def test_regions_hold_what_they_say():
    normal = np.random.default_rng(0).normal(size=(4000, 2))
    axes = Figure().subplots()
    draw_regions(axes, {"clean": normal, "attacked": normal + 10})
    for contours, center in zip(axes.collections[1::2], (0, 10), strict=True):
        outer, inner = (np.concatenate(p.to_polygons()) - center for p in contours.get_paths())
        for polygon, share in ((outer, 0.9), (inner, 0.5)):
            radius = np.sqrt(-2 * np.log(1 - share))  # of that region of the normal
            np.testing.assert_allclose(np.linalg.norm(polygon, axis=1).mean(), radius, rtol=0.07)


@pytest.mark.parametrize("span", [1e-3, 0.7, 1.0, 4.0, 9.99, 13.0, 200.0])
@pytest.mark.parametrize("length", [9.3, 12.7, 19.5])
@pytest.mark.parametrize("upright", [False, True])
def test_ticks_are_apart_and_inside(span, length, upright):
    for low in (-5.3, -span / 3, 0.0, 17.1):
        ticks = _ticks(low, low + span, length, upright)
        assert np.all((ticks > low) & (ticks < low + span))
        letters = [2 if upright else len(f"{tick:g}") for tick in ticks]
        room = np.diff(ticks) / span * length
        assert np.all(room > (np.add(letters[1:], letters[:-1])) / 2)  # more than a mm for each
        assert 1 <= len(ticks) <= 3
        assert len(ticks) > 1 or not upright


def test_small_panels_have_labels_that_fit():
    assert list(_ticks(-5000, 400, 19.5)) == [-4000, 0]
    assert list(_ticks(-50, 4, 19.5)) == [-40, 0]
    assert list(_ticks(-12.5, 27.5, 12.7)) == [0, 25]
    assert list(_ticks(-1.35, -0.05, 9.3)) == [-1]
    assert list(_ticks(-1.35, -0.05, 9.3, upright=True)) == [-1, -0.5]


def test_parameters_are_called_as_people_write_them():
    names = {"beta": r"$\beta$", "g_Na": r"$g_\mathrm{Na}$", "theta_1": r"$\theta_\mathrm{1}$"}
    names |= {"C": "$C$", "AB/PD Na": "AB/PD Na"}
    assert {name: parameter_name(name) for name in names} == names


def neuron(**settings):
    return example("hodgkin_huxley_2d", names=("g_Na", "g_K"), series=("V",), **settings)


def test_a_neuron_has_a_row_for_each_defense():
    figure = neuron_figure(pd.concat([neuron(), neuron(defense="fim", beta=0.1)]))
    assert len(figure.axes) == 14
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert [t for t in titles if t] == ["A   no defense", "B   FIM β=0.1"]
    difference = next(a for a in figure.axes if "added" in a.get_ylabel())
    np.testing.assert_allclose(difference.lines[1].get_ydata(), 2)
    posteriors = next(a for a in figure.axes if a.get_xlabel().startswith("$g"))
    assert posteriors.lines[0].get_color() == COLORS["truth"]
    predicted = next(a for a in figure.axes if a.get_title() == "predicted, attacked")
    assert len(predicted.lines) == 3  # two simulations and the observation
    ends = {axes.get_ylim() for axes in figure.axes if "predicted" in axes.get_title()}
    assert len(ends) == 1
    residual = figure.axes[figure.axes.index(predicted) + 2]
    pairs = zip(residual.lines[:2], predicted.lines[:2], strict=True)
    for below, above in pairs:
        left = above.get_ydata() - predicted.lines[2].get_ydata()
        np.testing.assert_allclose(below.get_ydata(), left)
    assert not residual.lines[2].get_ydata().any()  # the observation


def test_parameters_are_those_that_move_most_in_another_table():
    names = ("a", "b", "c")
    table, plain = example(names=names), example(names=names)
    moved = (plain.what == "posterior") & (plain.state == "attacked")
    plain = plain.assign(value=plain.value + 100.0 * (moved & (plain.name == "b")))
    figure = examples_figure(table, parameters=1, chosen_by=plain)
    assert "$b$" in [axes.get_xlabel() for axes in figure.axes]
    assert "that move most without a defense" in caption_of(figure)
