from __future__ import annotations

import pytest

from robust_npe.plotting import MixedRunsError, attacks_figure, defenses_figure
from robust_npe.plotting.composites import coverage_part
from tests.plotting.tables import clean, coverages, divergences, noise, table
from tests.plotting.test_tolerance import caption

TASKS = ("sir", "gaussian_linear", "lotka_volterra", "spatial_sir", "vae", "hodgkin_huxley")
IN_ORDER = ["Linear Gaussian", "Lotka-Volterra", "VAE", "Hodgkin-Huxley", "SIR", "Spatial SIR"]


def texts(legends):
    (found,) = legends
    return [text.get_text() for text in found.get_texts()]


def test_attacks_figure_has_the_papers_tasks_in_its_order():
    rows = [
        [
            *divergences(1.0, task=task),
            *noise(0.1, task=task),
            *coverages(1.0, 0.0, task=task),
            *coverages(2.0, 0.5, task=task),
            *coverages(1.1, 0.5, attack="noise", task=task),
        ]
        for task in TASKS
    ]
    figure = attacks_figure(table(*rows))
    tolerance, coverage = figure.subfigs
    bold = [[t for t in part.texts if t.get_fontweight() == "bold"] for part in figure.subfigs]
    assert [letter.get_text() for (letter,) in bold] == ["A", "B"]
    assert [axes.get_title() for axes in tolerance.axes] == IN_ORDER
    assert texts(tolerance.legends) == ["PGD", "random noise"]
    assert [axes.get_title() for axes in coverage.axes] == [*IN_ORDER, *[""] * 6]
    assert [axes.get_ylabel() for axes in coverage.axes[::6]] == ["PGD", "random noise"]
    assert texts(coverage.legends) == ["clean", "0.5"]
    assert figure.get_figwidth() == pytest.approx(170 / 25.4)
    sizes = {text.get_fontsize() for part in figure.subfigs for text in part.findobj(match_text)}
    assert min(sizes) >= 7


def match_text(artist):
    return hasattr(artist, "get_fontsize") and bool(getattr(artist, "get_text", str)())


@pytest.mark.parametrize(
    "other", [{"estimator": "nsf"}, {"num_simulations": 77}, {"scale": "paper"}], ids=str
)
def test_tables_of_a_figure_hold_comparable_runs(other):
    rows = [*divergences(1.0), *coverages(1.0, 0.5, defense="fim", beta=0.1), *clean(1.0, 5.0)]
    rows += [*divergences(0.5, defense="fim", beta=0.1), *clean(1.1, 5.0, defense="fim", beta=0.1)]
    every = table(rows).assign(scale="laptop")
    assert defenses_figure(every, every, 0.5)
    with pytest.raises(MixedRunsError, match=f"mix {next(iter(other))}"):
        defenses_figure(every, every.assign(**other), 0.5)


def test_defenses_figure_says_the_settings_of_each_task():
    betas = {"gaussian_linear": 0.001, "sir": 0.1, "vae": 0.1}
    rows = []
    for task, beta in betas.items():
        for keys in ({}, {"defense": "fim", "beta": beta}):
            rows += [*divergences(1.0, task=task, **keys), *clean(1.0, 5.0, task=task, **keys)]
            rows += [
                *coverages(1.0, 0.0, task=task, **keys),
                *coverages(2.0, 0.5, task=task, **keys),
            ]
    figure = defenses_figure(table(rows), table(rows), 0.5)
    tolerance, coverage, tradeoff = figure.subfigs
    assert texts(tolerance.legends) == ["no defense", "FIM"]
    assert coverage.axes[0].get_ylabel() == "FIM"
    assert len(coverage.axes) == 3
    assert [axes.get_title() for axes in tradeoff.axes[:3]] == ["Linear Gaussian", "VAE", "SIR"]
    assert "FIM: β 0.1 (Linear Gaussian: 0.001)." in caption(figure)


def test_a_part_is_as_high_as_its_panels_need():
    one = table(coverages(1.0, 0.0), coverages(1.0, 0.5))
    two = table(coverages(1.0, 0.0), coverages(1.0, 0.5), coverages(1.0, 0.5, attack="noise"))
    assert coverage_part(one).narrow
    assert not coverage_part(two).narrow
