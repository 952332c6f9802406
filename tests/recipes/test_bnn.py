"""Tables and figures of Bayesian classifiers, from tiny runs and from planted tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from robust_npe.commands import train
from robust_npe.plotting import NothingToDrawError
from robust_npe.plotting.bnn import gradients_figure, suite_figure, tradeoff_figure
from robust_npe.recipes import Recipe
from robust_npe.recipes.bnn import gradients_table, suite_table, tradeoff_table, verdict
from robust_npe.store import StoreError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def made(name, folder, *words):
    recipe = Recipe(name, "smoke", folder, words)
    for job in recipe.jobs:
        train.run(job.experiment)
    return recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bnn")


def test_the_table_of_attacks_holds_what_the_runs_measured(folder):
    with pytest.raises(StoreError, match="experiment=bnn_table1"):
        suite_table([Recipe("bnn_table1", "smoke", folder)])
    recipe = made("bnn_table1", folder, "inference=sgd,hmc_published")
    table = suite_table([recipe])
    assert [*table.inference] == ["sgd", "hmc"]
    assert [*table.settings] == ["", "standard"]
    assert [*table.hidden] == ["16", "16"]
    assert table.converged.isna().tolist() == [True, False]
    rows = recipe.table()
    kept = rows[(rows.metric == "masking") & (rows.run_id == table.run_id[1])]
    kept = kept.set_index("statistic").value
    assert table.worst[1] == kept.worst
    attacked = kept[["random_signs", "published_pgd", "fgsm", "pgd", "fresh_pgd"]]
    assert kept.worst <= attacked.min()
    assert len(suite_figure(table).axes) == 2


def test_expected_gradients_and_tradeoffs_of_tiny_runs(folder):
    words = ("inference=hmc", "estimator.hidden=[4]")
    table = gradients_table([made("bnn_moons", folder, *words)])
    assert sorted(table.draws) == [1, 8]
    assert {"mean", "zero_single", "rhat", "worst", "accuracy"} <= {*table.columns}
    figure = gradients_figure(table)
    kept, unconverged = figure.axes[-1].lines
    assert len(unconverged.get_xdata()) == int((table.converged == 0).any())
    last = table[table.draws == 8].iloc[0]
    assert kept.get_ydata() == pytest.approx([last["mean"] / last.single])
    assert 0 < kept.get_ydata()[0] <= 1
    sgd = made("bnn_tradeoff_sgd", folder)
    hmc = made("bnn_tradeoff_hmc", folder, "estimator.activation=tanh")
    table = tradeoff_table([sgd, hmc])
    assert [*table.inference] == ["sgd", "sgd", "hmc"]
    assert (table.attacked <= table.accuracy + 0.1).all()
    assert table.softmax_robustness.between(0, 1).all()
    assert "of 1 samplers" in tradeoff_figure(table).get_supxlabel().replace("\n", " ")


def planted(**changes):
    row = {"clean": 0.9, "random_signs": 0.85, "published_fgsm": 0.8, "published_pgd": 0.8}
    row |= {"fgsm": 0.5, "pgd": 0.4, "fresh_pgd": 0.4, "worst": 0.4, "zero_pgd": 0.0}
    return pd.Series(row | {"masked": 0.0} | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "gradients tell the truth: the worst case leaves 44 % of it"),
        ({"pgd": 0.0, "worst": 0.0}, "not robust"),
        ({"pgd": 0.8, "worst": 0.0, "masked": 0.8, "zero_pgd": 0.6}, "masking: PGD leaves 0.80"),
        # a gap alone is no proof of masking: an attack may just be weak
        ({"pgd": 0.6, "worst": 0.4, "masked": 0.2}, "PGD on the likelihood misses 0.20"),
    ],
)
def test_verdicts(changes, said):
    assert verdict(planted(**changes)).startswith(said)


def test_cells_show_accuracies_and_samplers_are_marked():
    keys = {"task": "digits", "epsilon": 0.1, "num_simulations": 9, "seed": 0, "inference": "hmc"}
    rows = [
        {**planted(), **keys, "settings": s, "converged": c, "verdict": "v: w"}
        for s, c in (("", 1.0), ("standard", 0.0))
    ]
    table = pd.DataFrame([*rows, {**rows[0], "inference": "sgd", "converged": np.nan}])
    figure = suite_figure(table)
    cells, words = figure.axes
    assert [t.get_text() for t in cells.get_yticklabels()] == ["SGD", "HMC", "HMC, N(0, 1)†"]
    assert [t.get_text() for t in cells.texts[:2]] == ["0.90", "0.85"]
    assert words.texts[0].get_text() == "v:\nw"
    assert "has not converged" in figure.get_supxlabel().replace("\n", " ")
    with pytest.raises(ValueError, match="mix epsilon"):
        suite_figure(pd.concat([table, table.assign(epsilon=0.2)]))
    for draw in (suite_figure, gradients_figure, tradeoff_figure):
        with pytest.raises(NothingToDrawError):
            draw(table.iloc[:0])
        with pytest.raises(ValueError, match="mix seed 0, 1"):
            draw(pd.concat([table[:1], table[:1].assign(seed=1)]))
