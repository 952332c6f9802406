from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from robust_npe.plotting import (
    NothingToDrawError,
    analytic_bound_plot,
    attack_strength_plot,
    by_setting_plot,
    movement_plot,
    run_time_plot,
    true_posterior_plot,
)
from robust_npe.plotting.bound import with_analytic_bound
from robust_npe.tasks import GaussianLinear
from tests.plotting.tables import EPSILONS, clean, divergences, noise, row, table
from tests.plotting.test_tolerance import caption, legend, lines


def errors(value, **keys):
    """Mean absolute errors of coverage, clean and attacked."""
    kinds = {0.0: {"attack": "none", "objective": "", "norm": "", "domain": ""}}
    return [
        row(
            metric="coverage",
            statistic="mean_absolute_error",
            epsilon=e,
            value=value * (1 + e),
            **{**keys, **kinds.get(e, {})},
        )
        for e in (0.0, *EPSILONS)
    ]


def sizes():
    """Trained with 100 and with 1000 simulations, on two tasks."""
    return table(
        *(
            [*divergences(1.0, **k), *errors(0.1, **k), *clean(nll, 5.0, **k)]
            for task in ("sir", "gaussian_linear")
            for nll, count in ((2.0, 1000), (3.0, 100))
            for k in [{"task": task, "num_simulations": count}]
        )
    )


def test_a_setting_changes_movement_coverage_and_likelihood():
    figure = by_setting_plot(sizes(), "num_simulations")
    above, below = figure.subfigs
    assert [axes.get_title() for axes in above.axes] == ["Linear Gaussian", "SIR", "", ""]
    assert "KL" in above.axes[0].get_ylabel()
    assert above.axes[2].get_ylabel() == "coverage\nerror"
    (found,) = above.legends
    names = ["100 simulations", "1\u2009000 simulations"]
    assert [text.get_text() for text in found.get_texts()] == names
    moved = lines(above.axes[0], names[1])[0]
    assert moved.get_ydata() == pytest.approx(EPSILONS)
    covered = lines(above.axes[2], names[0])[0]
    assert covered.get_ydata() == pytest.approx([0.1, 0.11, 0.15, 0.3])
    assert [text.get_text() for text in above.axes[2].get_xticklabels()] == ["0", "0.1", "0.5", "2"]
    assert "Radius 0: clean" in caption(figure)
    colors = [lines(axes, names[0])[0].get_color() for axes in (*above.axes, *below.axes)]
    assert len(set(colors)) == 1
    assert [text.get_text() for text in below.axes[0].get_xticklabels()] == ["100", "1\u2009000"]
    likelihoods = [lines(below.axes[0], name)[0].get_ydata()[0] for name in names]
    assert likelihoods == [3.0, 2.0]


@pytest.mark.parametrize("count", [1, 3])
def test_narrow_panels_name_all_of_few_radii(count):
    found = table(
        *(
            [*divergences(1.0, task=t), *errors(0.1, task=t), *clean(2.0, 5.0, task=t)]
            for t in "abcde"
        )
    )
    radii = [0.0, *EPSILONS][: count + 1]
    figure = by_setting_plot(found[found.epsilon.isin(radii)], "defense")
    names = [tick.get_text() for tick in figure.subfigs[0].axes[-1].get_xticklabels()]
    assert names == ["0", "0.1", "0.5", "2"][: count + 1]


def test_marks_at_the_ends_of_lines_do_not_cover_each_other():
    names = ("none", "fim", "trades")
    found = [
        [*divergences(1.0, defense=n), *errors(0.1, defense=n), *clean(2.0, 5.0, 1.0, defense=n)]
        for n in names
    ]
    figure = by_setting_plot(table(*found), "defense")
    for axes in figure.subfigs[0].axes:
        marks = [text for text in axes.texts if text.get_text() == "†"]
        assert len({text.xyann[0] for text in marks}) == len(marks) == 3


def test_likelihoods_that_are_far_off_do_not_hide_others():
    found = [
        [*divergences(1.0, defense=n), *errors(0.1, defense=n), *clean(nll, 5.0, defense=n)]
        for n, nll in (("none", -4.0), ("fim", 2.0), ("trades", 1e5))
    ]
    axes = by_setting_plot(table(*found), "defense").subfigs[1].axes[0]
    assert axes.get_yscale() == "symlog"
    place = (axes.transScale + axes.transLimits).transform
    heights = [place((0, nll))[1] for nll in (-4.0, 2.0, 1e5)]
    assert np.diff(heights).min() > 0.1
    near = table(*found[:2])
    for shift in (0.0, -5e3):
        shifted = near.assign(value=near.value.where(near.metric != "nll", near.value + shift))
        panel = by_setting_plot(shifted, "defense").subfigs[1].axes[0]
        assert panel.get_yscale() == "linear"


def test_a_movement_that_nobody_measured_is_told():
    with pytest.raises(NothingToDrawError, match=r"no rows with metric kl_fwd \(median\)"):
        by_setting_plot(sizes(), "num_simulations", metric="kl_fwd")


def test_values_with_long_names_are_in_the_order_of_the_legend():
    other = sizes().assign(estimator="x" * 30)
    figure = by_setting_plot(
        pd.concat([other.assign(run_id="r" + other.run_id), sizes()]).query(
            "num_simulations == 100"
        ),
        "estimator",
    )
    below = figure.subfigs[1]
    assert below.get_supxlabel() == "estimators, in the order of the legend"
    assert not below.axes[0].get_xticks().size


def test_what_attacks_climb_has_no_likelihood_of_its_own():
    parts = [divergences(1.0, objective=o) + errors(0.1, objective=o)[1:] for o in ("nll", "mmd")]
    figure = by_setting_plot(table(*parts), "objective")
    assert len(figure.subfigs) == 1
    assert legend(figure) == ["MMD", "density of the true θ"]


def test_movement_has_equal_axes_for_its_three_numbers():
    parts = [
        divergences(base, metric=metric)
        for base, metric in ((1e3, "kl_forward"), (1.0, "legitimate_movement"), (1e-3, "error"))
    ]
    figure = movement_plot(table(*parts))
    names = [axes.get_ylabel().split(",")[0] for axes in figure.axes]
    assert names == ["sensitivity", "legitimate\nmovement", "error"]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    for axes, base in zip(figure.axes, (1e3, 1.0, 1e-3), strict=True):
        assert lines(axes, "no defense")[0].get_ydata() == pytest.approx(np.array(EPSILONS) * base)


def test_true_posteriors_may_be_computed():
    known = divergences(1.0, metric="error", task="gaussian_linear")
    computed = [
        divergences(2.0, metric="reference_error", task=task) for task in ("gaussian_linear", "sir")
    ]
    figure = true_posterior_plot(table(known, *computed))
    assert lines(figure.axes[0], "no defense")[0].get_ydata() == pytest.approx(EPSILONS)
    assert [axes.get_title() for axes in figure.axes] == ["Linear Gaussian", "SIR"]
    assert lines(figure.axes[1], "no defense")[0].get_ydata() == pytest.approx([0.2, 1.0, 4.0])
    with pytest.raises(NothingToDrawError, match="reference_error"):
        true_posterior_plot(table(divergences(1.0)))


def test_attacks_are_compared_with_the_strongest():
    figure = attack_strength_plot(table(divergences(4.0), noise(1.0)))
    above, below = figure.axes
    assert lines(above, "random noise")[0].get_ydata() == pytest.approx(EPSILONS)
    assert lines(below, "random noise")[0].get_ydata() == pytest.approx([0.25] * 3)
    assert lines(below, "PGD")[0].get_ydata() == pytest.approx([1.0] * 3)


def test_run_times_by_simulations_and_by_defense():
    counts = [clean(1.0, c / 10, num_simulations=c) for c in (100, 1000)]
    slow = clean(1.0, 77.0, num_simulations=1000, defense="trades", beta=1.0)
    rows = table(*counts, slow)
    (axes,) = run_time_plot(rows).axes
    assert lines(axes, "no defense")[0].get_ydata() == pytest.approx([10.0, 100.0])
    assert lines(axes, "TRADES")[0].get_ydata() == pytest.approx([77.0])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["100", "1\u2009000"]
    assert axes.get_ylabel() == "training time, s"
    (axes,) = run_time_plot(rows[rows.num_simulations == 1000], x="defense").axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["no defense", "TRADES"]


def test_the_bound_of_the_linear_gaussian_task():
    # published radii, s = 1.0623
    published = {0.1: 0.563, 0.2: 2.25, 0.3: 5.07, 0.5: 14.1, 1.0: 56.3, 2.0: 225}
    rows = table(
        [
            row(task="gaussian_linear", estimator="nsf", epsilon=e, value=2 * v)
            for e, v in published.items()
        ]
    )
    rows["epsilon_abs"] = 1.0623 * rows.epsilon
    bound = with_analytic_bound(rows).query("metric == 'analytic_bound'").set_index("epsilon").value
    assert bound.to_dict() == pytest.approx(published, rel=5e-3)
    (axes,) = analytic_bound_plot(rows).axes
    (grey,) = [line for line in axes.lines if line.get_color() == "0.6"]
    assert grey.get_ydata() == pytest.approx(bound.to_numpy())
    assert lines(axes, "NSF")[0].get_ydata() == pytest.approx(2 * np.array([*published.values()]))


def test_the_bound_is_the_largest_movement_of_the_exact_posterior():
    import torch
    from torch.distributions import kl_divergence

    task = GaussianLinear(slopes=(0.3, -2.0, 0.05), noise_std=0.5)
    rows = table([row(task=task.name, epsilon=0.7)])
    bound = with_analytic_bound(rows, task).value.iloc[-1]
    generator = torch.Generator().manual_seed(0)
    delta = torch.randn(20_000, 3, generator=generator, dtype=torch.float64)
    delta *= 0.7 / delta.norm(dim=1, keepdim=True)
    x = torch.ones(3, dtype=torch.float64)
    moved = kl_divergence(task.true_posterior(x), task.true_posterior(x + delta))
    assert moved.max() <= bound
    assert moved.max() == pytest.approx(bound, rel=1e-3)
