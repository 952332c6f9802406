from __future__ import annotations

import pandas as pd
import pytest

from robust_npe.checks import ConfigError
from robust_npe.commands import compare, train
from tests.test_config import composed

SMALL = ("scale=smoke", "num_simulations=128", "training.max_epochs=1", "estimator=gaussian")
SMALL += ("epsilon=[0.5,1]", "plots=false", "metric=[divergence,nll]")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    output = tmp_path_factory.mktemp("outputs")
    changes = {"pgd": (), "noise": ("attack=noise",), "other": ("seeds.data=1",)}
    results = {
        name: train.main(composed(*SMALL, *words, f"output_dir={output}"))
        for name, words in changes.items()
    }
    return output, {name: result.folder.name for name, result in results.items()}, results


def compared(output, *runs, **settings):
    words = [f"{key}={value}" for key, value in settings.items()]
    listed = ",".join(f"'{run}'" for run in runs)
    return compare.main(
        composed(f"run=[{listed}]", *words, f"output_dir={output}", command="compare")
    )


def test_an_attack_against_noise(runs):
    output, ids, results = runs
    text = compared(output, ids["pgd"], ids["noise"])
    table = pd.read_csv(output / "comparison.csv")
    assert table.epsilon.tolist() == [0.5, 1.0]
    assert set(table.a) == {ids["pgd"]}
    assert set(table.b) == {ids["noise"]}
    assert (table.ratio_low > 1).all()
    assert (table.share_above > 0.9).all()
    assert (table.sign_test < 1e-4).all()
    for name, column in (("pgd", "median_a"), ("noise", "median_b")):
        rows = results[name].table
        rows = rows[(rows.metric == "kl_forward") & (rows.statistic == "median")]
        assert table[column].tolist() == pytest.approx(rows.value.tolist())
    assert "comparison.csv" in text
    assert "defense none, noise" in text


def test_another_quantity_goes_where_it_is_told(runs, tmp_path):
    output, ids, _ = runs
    text = compared(output, ids["noise"], ids["pgd"], quantity="nll", to=tmp_path / "nll.csv")
    assert "medians of nll" in text
    assert len(pd.read_csv(tmp_path / "nll.csv")) == 2
    with pytest.raises(ConfigError, match="measured predictive at a common radius"):
        compared(output, ids["noise"], ids["pgd"], quantity="predictive")


def test_runs_on_different_observations_are_refused(runs):
    output, ids, _ = runs
    with pytest.raises(ConfigError, match=r"seeds\.data differs"):
        compared(output, ids["pgd"], ids["other"])
