"""Tables and figures of margins, from tiny runs and from planted tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from robust_npe.commands import train
from robust_npe.plotting import NothingToDrawError
from robust_npe.plotting.margins import images_figure, margins_figure
from robust_npe.plotting.saving import caption_of
from robust_npe.recipes import Recipe
from robust_npe.recipes.margins import margin_images, margins_table
from robust_npe.recipes.stored import experiments
from robust_npe.store import StoreError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
TINY = ("beta=1,4", "seed=0", "epsilon=[1.0]", "evaluation.num_attacked=6", "attack.steps=5")
TINY += ("metrics.margin_measured.searches=2", "metrics.margin_measured.num_samples=40")
TINY += ("metrics.r_robustness.num_samples=40", "metrics.margin_bound.num_samples=100")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    recipe = Recipe("vae_margins", "smoke", tmp_path_factory.mktemp("margins"), TINY)
    with pytest.raises(StoreError, match="experiment=vae_margins"):
        margins_table([recipe], 1.0)
    for job in recipe.jobs:
        train.run(job.experiment)
    return recipe


def test_tables_hold_what_the_runs_measured(recipe):
    table = margins_table([recipe], 1.0)
    assert len(table) == 12
    assert table.groupby("kl_weight").estimator.first().to_dict() == {
        1.0: "vae",
        4.0: "vae(kl_weight=4)",
    }
    measured = recipe.observations()
    run = table[table.kl_weight == 4].run_id.iloc[0]
    rows = measured[(measured.run_id == run) & (measured.observation == 2)]
    row = table[(table.run_id == run) & (table.observation == 2)].iloc[0]
    bound = rows[rows.metric == "margin_spectral"].value.item()
    lost = rows[(rows.metric == "likelihood_degradation") & (rows.epsilon == 1)].value.item()
    assert (row.margin_spectral, row.likelihood_degradation) == pytest.approx(
        (bound, lost), rel=1e-3
    )
    with pytest.raises(StoreError, match="radius 7"):
        margins_table([recipe], 7.0)


def test_images_are_those_of_the_attack(recipe):
    table = margins_table([recipe], 1.0)
    images = margin_images(experiments([recipe]), table, 1.0)
    of_run = table[table.kl_weight == 1]
    found = images.groupby("observation", sort=False).margin_upper.first()
    assert found.tolist() == [of_run.margin_upper.max(), of_run.margin_upper.min()]
    for _, rows in images.groupby("observation"):
        pixels = rows.pivot_table(index="image", columns=["row", "column"], values="value")
        assert pixels.shape == (5, 64)
        moved = pixels.loc["perturbed"] - pixels.loc["original"]
        np.testing.assert_allclose(moved, pixels.loc["perturbation"], atol=2e-3)
        assert 0.9 < np.linalg.norm(moved) < 1.001
    figure = images_figure(images.assign(scale="smoke"))
    assert len(figure.axes) == 10
    assert figure.axes[0].get_ylabel().startswith("margin ")
    with pytest.raises(NothingToDrawError):
        images_figure(images.iloc[:0])
    with pytest.raises(ValueError, match="mix kl_weight"):  # a mean of images otherwise
        images_figure(pd.concat([images, images.assign(kl_weight=7.0)]))


def planted(**changes):
    """Margins twice as large as their bounds, which grow with the weight; one is infinite."""
    measured = np.geomspace(0.1, 2, 20)
    parts = []
    for weight in (1.0, 5.0):
        columns = {
            f"margin_{name}": weight * measured / f
            for name, f in {"published": 4, "spectral": 2, "fisher_rao": 3, "upper": 1}.items()
        }
        columns["margin_upper"][-1] = np.inf
        columns |= {"encoder_variance": weight / 10, "jacobian_norm": 5 / weight}
        columns |= {"likelihood_degradation": 0.1 / measured, "observation": range(20)}
        parts.append(pd.DataFrame(columns).assign(kl_weight=weight))
    keys = {
        "task": "digits",
        "estimator": "vae",
        "defense": "none",
        "num_simulations": 9,
        "attack": "pgd",
    }
    keys |= {"norm": "l2", "epsilon": 1.0, "epsilon_unit": "absolute", "seed": 0, "diverged": 0}
    return pd.concat(parts, ignore_index=True).assign(**(keys | changes))


def test_bounds_are_drawn_against_what_was_measured_with_the_diagonal():
    figure = margins_figure(planted())
    assert figure.get_figwidth() == pytest.approx(170 / 25.4)
    first, second, degradation, margins, variance, _ = figure.axes
    spectral, diagonal = first.lines[1], first.lines[3]
    np.testing.assert_allclose(spectral.get_xdata(), 2 * spectral.get_ydata())
    assert len(spectral.get_xdata()) == 19
    assert tuple(diagonal.get_xdata()) == tuple(diagonal.get_ydata())
    assert first.get_title() == "β = 1 (1.00, 1.00)"
    assert second.get_title().startswith("β = 5")
    x, y = degradation.lines[0].get_data()
    np.testing.assert_allclose(x * y, 0.1)
    assert margins.lines[0].get_xdata().tolist() == [1, 5]
    assert variance.lines[0].get_ydata() == pytest.approx([0.1, 0.5])
    assert "No attack succeeded on 2 of 40" in caption_of(figure)


def test_where_nothing_broke_that_is_said():
    figure = margins_figure(planted(margin_upper=np.inf))
    figure.canvas.draw()
    assert [panel.texts[0].get_text() for panel in figure.axes[:2]] == ["nothing broke"] * 2
    assert "No attack succeeded on 40 of 40 images" in caption_of(figure)


def test_settings_are_not_mixed():
    with pytest.raises(ValueError, match="mix epsilon"):
        margins_figure(pd.concat([planted(), planted(epsilon=2.0)]))
    with pytest.raises(NothingToDrawError):
        margins_figure(planted().iloc[:0])
