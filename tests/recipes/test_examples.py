from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from robust_npe.commands import train
from robust_npe.commands.experiment import Experiment
from robust_npe.random import draws_from, stream
from robust_npe.recipes.attackable import attackable_table
from robust_npe.recipes.examples import _parameters, examples, features, rounded
from robust_npe.store import StoreError
from robust_npe.tasks import LotkaVolterra, SpatialSIR
from robust_npe.tasks.pyloric import CELLS, Pyloric
from tests.test_config import composed

SMALL = ("num_simulations=128", "training.max_epochs=2", "plots=false", "metric=[divergence]")
SMALL += ("evaluation.num_attacked=9", "evaluation.num_test=32", "scale=smoke", "task=sir")
RADIUS = 0.5


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    where = f"output_dir={tmp_path_factory.mktemp('examples')}"
    found = {}
    for defense in ("none", "fim"):
        config = composed(*SMALL, f"epsilon=[{RADIUS}]", f"defense={defense}", where)
        train.main(config)
        found[defense] = Experiment(config)
    return found


@pytest.fixture(scope="module")
def table(experiments):
    return examples(list(experiments.values()), {"sir": RADIUS}, num_simulations=400, num_traces=2)


def files(experiment):
    return sorted(path for path in experiment.store.root.parent.rglob("*") if path.is_file())


def test_the_example_has_the_median_divergence_without_a_defense(experiments, table):
    folder = experiments["none"].store.root.parent / "runs"
    stored = pd.concat([pd.read_csv(path) for path in folder.glob("*/observations.csv")])
    stored = stored[(stored.metric == "kl_forward") & (stored.epsilon == RADIUS)]
    undefended = stored[stored.defense == "none"].set_index("observation").value
    (number,) = table.observation.unique()
    assert undefended[number] == undefended.median()  # of nine
    for defense, rows in table.groupby("defense"):
        value = stored[(stored.defense == defense) & (stored.observation == number)].value.item()
        assert rows.kl_forward.unique() == pytest.approx([value], rel=1e-3)


def test_the_attacked_observation_is_the_one_of_the_run(experiments, table):
    theta, x = experiments["none"].test_set
    number, unit = table.observation.iloc[0], experiments["none"].unit
    for _, rows in table.groupby("defense"):
        observed = rows[rows.what == "observation"]
        clean, attacked = (observed[observed.state == s].value for s in ("clean", "attacked"))
        np.testing.assert_allclose(clean, x[number], rtol=1e-3)
        moved = np.linalg.norm(attacked.to_numpy() - clean.to_numpy())
        assert 0 < moved <= RADIUS * unit * 1.01
        assert rows[rows.what == "truth"].value.tolist() == pytest.approx(
            theta[number].tolist(), rel=1e-3
        )
    defended = table[(table.what == "observation") & (table.state == "attacked")]
    assert defended.groupby("position").value.nunique().max() == 2  # each defense, its own attack


def test_samples_and_predictions_are_of_the_posterior(experiments, table):
    experiment = experiments["none"]
    rows = table[(table.defense == "none") & (table.state == "clean")]
    number = rows.observation.iloc[0]
    with torch.no_grad(), draws_from(stream(1, "test")):
        q = experiment.trained().posterior(experiment.test_set[1][number : number + 1])
        theta = q.sample((4000,))[:, 0]
    samples = rows[rows.what == "posterior"].pivot_table("value", "position", "name")
    assert len(samples) == 500
    error = theta.std(0).numpy() / np.sqrt(500)
    means = samples[experiment.task.theta_names].mean()
    np.testing.assert_array_less(np.abs(means - theta.mean(0).numpy()), 5 * error)
    x = experiment.task.simulate(theta, torch.Generator().manual_seed(1)).numpy()
    predictive = rows[rows.what == "predictive"].pivot_table("value", "position", "statistic")
    for name, level in (("q05", 0.05), ("q50", 0.5), ("q825", 0.825)):
        share = (x <= predictive[name].to_numpy()).mean(axis=0)  # of new simulations
        np.testing.assert_allclose(share, level, atol=5 * np.sqrt(level * (1 - level) / 400) + 0.01)
    assert rows[rows.what == "simulation"].groupby("statistic").size().tolist() == [50, 50]


def test_the_random_numbers_are_the_same_each_time_and_nothing_is_computed_again(
    experiments, table
):
    before = files(experiments["none"])
    again = examples(list(experiments.values()), {"sir": RADIUS}, num_simulations=400, num_traces=2)
    pd.testing.assert_frame_equal(again, table)
    assert files(experiments["none"]) == before


def test_what_no_run_has_is_one_line(experiments):
    with pytest.raises(StoreError, match=r"lacks kl_forward at radius 0\.3"):
        examples(list(experiments.values()), {"sir": 0.3})
    with pytest.raises(StoreError, match="without a defense"):
        examples([experiments["fim"]], {"sir": RADIUS})


def test_which_observations_can_be_attacked(experiments):
    found = attackable_table(list(experiments.values()), RADIUS)
    assert found.groupby("defense").size().to_dict() == {"fim": 9, "none": 9}
    theta, x = (t[:9] for t in experiments["none"].test_set)
    rows = found[found.defense == "none"]
    np.testing.assert_allclose(rows[["theta_1", "theta_2"]], theta, rtol=1e-3)
    np.testing.assert_allclose(rows.highest, x.max(1).values, rtol=1e-3)


def test_features_have_places():
    image = features(SpatialSIR(size=3, num_seeds=2), torch.arange(9.0)[None], ["a"])
    grid = image.pivot_table(index="row", columns="position", values="value")
    np.testing.assert_array_equal(grid, np.arange(9).reshape(3, 3))
    lotka = features(LotkaVolterra(num_points=5), torch.arange(20.0).reshape(2, 10), ["a", "b"])
    predator = lotka[(lotka.name == "predator") & (lotka.statistic == "b")]
    assert predator.position.tolist() == [0, 5, 10, 15, 20]
    assert predator.value.tolist() == [15, 16, 17, 18, 19]
    pyloric = Pyloric(duration=10.0)
    traces = features(pyloric, torch.zeros(1, pyloric.dim_x), [""])
    assert list(dict.fromkeys(traces.name)) == list(CELLS)
    assert traces[traces.name == "LP"].position.tolist() == [0, 2.5, 5, 7.5]


def test_samples_keep_their_spread():
    theta = torch.tensor([[-107.001], [-107.002], [-107.004]])

    class Narrow:
        theta_names = ("E_K",)

    rows = _parameters(Narrow(), theta)
    assert rows.value.std() == pytest.approx(theta.double().std().item(), rel=0.02)
    assert rows.value.map(lambda v: len(f"{v:.9g}")).max() <= 10  # digits, point and sign


def test_four_digits_are_kept():
    assert rounded(pd.Series([1234567.0, 0.000123456, 0.0])).tolist() == [1235000, 0.0001235, 0]
