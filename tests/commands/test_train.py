from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest

from robust_npe.checks import ConfigError
from robust_npe.commands import attack, collect, evaluation, simulate, train
from robust_npe.store import Artefact, read_table
from robust_npe.tasks import GaussianLinear
from robust_npe.training import read_history
from tests.test_config import composed

SMOKE = ("scale=smoke", "num_simulations=256", "training.max_epochs=1", "epsilon=[0.1,1]")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    output = tmp_path_factory.mktemp("outputs")
    return output, train.main(composed(*SMOKE, f"output_dir={output}"))


def files(result):
    return {p.name for p in result.folder.iterdir()}


def test_writes_tables_and_plots(run):
    _, result = run
    expected = {"config.yaml", "manifest.json", "results.csv", "observations.csv"}
    assert files(result) == expected | {"tolerance.png", "coverage.png", "training.png"}
    assert all(name in result.text for name in ("results.csv", "tolerance.png", "NLL"))


def test_the_interval_of_checkpoints_is_no_part_of_an_identity(run, caplog):
    output, result = run
    caplog.set_level("INFO")
    words = ("training.checkpoint_every=null", f"output_dir={output}")
    assert train.main(composed(*SMOKE, *words)).folder == result.folder
    assert "nothing to compute" in caplog.text
    (estimator,) = (output / "store" / "estimators").iterdir()
    training = Artefact(estimator, estimator.name, created=False).manifest["description"][
        "training"
    ]
    assert "batch_size" in training
    assert "checkpoint_every" not in training
    history = read_history(estimator / "history.csv")
    assert len(history) == 1


def test_draws_only_what_was_measured(run, caplog):
    output, _ = run
    caplog.set_level("INFO")
    words = ("epsilon=0", "metric=[nll,divergence]", f"output_dir={output}")
    result = train.main(composed(*SMOKE, *words))
    assert {name for name in files(result) if name.endswith(".png")} == {"training.png"}
    assert "no tolerance.png: there are no rows with metric kl_forward at a radius" in caplog.text
    assert "no coverage.png: there are no rows with metric coverage" in caplog.text


def test_table_holds_the_promised_numbers(run):
    _, result = run
    table = result.table
    assert set(table.epsilon) == {0.0, 0.1, 1.0}
    clean, attacked = table[table.attack == "none"], table[table.attack == "pgd"]
    assert {"nll", "coverage", "error", "training"} <= set(clean.metric)
    sensitivity = {"kl_forward", "kl_reverse", "total_variation", "legitimate_movement"}
    others = {"error", "nll", "coverage", "attack", "soundness"}
    assert set(attacked.metric) == sensitivity | others
    blind = attacked[attacked.metric == "attack"]
    assert list(blind.statistic) == ["zero_gradient_fraction"] * 2  # one for each radius
    assert blind.value.between(0, 0.5).all()
    assert set(attacked.attack_settings) == {""}  # all are defaults
    assert set(attacked.domain) == {"data"}
    assert set(clean.attack_settings) == set(clean.domain) == {""}
    assert (attacked.norm == "l2").all()
    assert (attacked.objective == "kl_forward").all()
    assert table.value.notna().all()
    ratio = attacked.epsilon_abs / attacked.epsilon
    assert ratio.nunique() == 1
    assert ratio.iloc[0] == pytest.approx(1.06, abs=0.1)


def test_observations_reproduce_the_summaries(run):
    _, result = run
    from robust_npe.store import OBSERVATION_COLUMNS

    rows = read_table(result.folder / "observations.csv", OBSERVATION_COLUMNS)
    rows = rows[(rows.metric == "kl_forward") & (rows.epsilon == 1)]
    table = result.table
    median = table[
        (table.metric == "kl_forward") & (table.epsilon == 1) & (table.statistic == "median")
    ].value
    assert rows.value.median() == pytest.approx(median.iloc[0], rel=1e-12)
    assert len(rows) == 32


def test_second_run_does_no_work(run, monkeypatch, caplog):
    output, result = run
    monkeypatch.setattr("robust_npe.commands.train._make", None)  # calling it would fail
    with caplog.at_level("INFO"):
        again = train.main(composed(*SMOKE, f"output_dir={output}"))
    assert again.folder == result.folder
    assert "nothing to compute" in caplog.text


def test_same_seed_gives_the_same_bytes(run, tmp_path):
    _, result = run
    again = train.main(composed(*SMOKE, f"output_dir={tmp_path}"))
    for name in ("results.csv", "observations.csv"):
        assert (again.folder / name).read_bytes() == (result.folder / name).read_bytes()


def test_stored_estimator_gives_the_same_bytes_as_a_fresh_one(run, tmp_path):
    output, result = run
    shutil.copytree(output / "store", tmp_path / "store")
    again = train.main(composed(*SMOKE, f"output_dir={tmp_path}"))
    assert (again.folder / "results.csv").read_bytes() == (
        result.folder / "results.csv"
    ).read_bytes()


def test_sweep_over_epsilon_trains_once(run, monkeypatch):
    output, _ = run
    monkeypatch.setattr("robust_npe.commands.fitting.train", None)
    overrides = ("epsilon=0.5", "plots=false", "attack.steps=20", "domain=none")
    result = train.main(composed(*SMOKE[:3], *overrides, f"output_dir={output}"))
    assert set(result.table.epsilon) == {0.0, 0.5}
    assert set(result.table.attack_settings) == {"", "steps=20"}
    assert set(result.table.domain) == {"", "none"}
    assert "tolerance.png" not in files(result)


def test_missing_plots_are_drawn_later(run):
    output, _ = run
    overrides = (*SMOKE[:3], "epsilon=0.7", f"output_dir={output}")
    train.main(composed(*overrides, "plots=false"))
    assert "tolerance.png" in files(train.main(composed(*overrides)))


@pytest.mark.parametrize("defense", ["fim", "trades", "adversarial_training", "noise"])
def test_every_defense_runs(defense, tmp_path):
    overrides = (f"defense={defense}", "num_simulations=128", "training.max_epochs=1")
    small = ("scale=smoke", "epsilon=0.5", "plots=false", "task=sir", "estimator=gaussian")
    result = train.main(composed(*small, *overrides, f"output_dir={tmp_path}"))
    assert (result.table.defense == defense).all()
    assert result.table.beta.notna().all() == (defense in ("fim", "trades"))
    assert result.table.defense_epsilon.notna().all() == (defense != "fim")
    (manifest,) = tmp_path.glob("store/estimators/*/manifest.json")
    facts = json.loads(manifest.read_text())["facts"]["defense"]
    if defense == "fim":  # as for estimators without compiled scores
        assert facts == {"num_samples": 1, "rows": 256, "every": 1, "weight": 1.0, "limit": 10.0}
    else:
        assert facts["radius"] > 0


def test_evaluation_continues_after_the_last_radius(run, tmp_path, monkeypatch):
    output, result = run
    shutil.copytree(output / "store" / "estimators", tmp_path / "store" / "estimators")
    measure, measured = evaluation._measure, []

    def interrupted(experiment, trained, epsilon, kept):
        measured.append(epsilon)
        if measured == [None, 0.1, 1.0]:
            raise KeyboardInterrupt
        return measure(experiment, trained, epsilon, kept)

    monkeypatch.setattr(evaluation, "_measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.main(composed(*SMOKE, f"output_dir={tmp_path}"))
    again = train.main(composed(*SMOKE, f"output_dir={tmp_path}"))
    assert measured == [None, 0.1, 1.0, 1.0]
    for name in ("results.csv", "observations.csv"):
        assert (again.folder / name).read_bytes() == (result.folder / name).read_bytes()


def test_another_metric_attacks_nothing_again(run, monkeypatch):
    output, _ = run
    monkeypatch.setattr(evaluation, "_search", None)  # calling it would fail
    overrides = (*SMOKE, "metric=[nll]", "plots=false", f"output_dir={output}")
    assert set(train.main(composed(*overrides)).table.metric) == {"training", "nll", "attack"}


def test_another_number_of_steps_is_another_row(run):
    output, result = run
    overrides = (*SMOKE[:3], "epsilon=1", "attack.steps=5", "plots=false", f"output_dir={output}")
    table = train.main(composed(*overrides)).table
    attacked = table[table.attack == "pgd"]
    assert set(attacked.attack_settings) == {"steps=5"}
    assert set(attacked.domain) == {"data"}
    assert set(result.table.attack_settings) == {""}


def test_a_run_elsewhere_is_attacked_with_its_own_store_and_sizes(run, tmp_path, monkeypatch):
    _, result = run
    monkeypatch.setattr("robust_npe.commands.fitting.train", None)
    monkeypatch.setattr("robust_npe.store.chunks.SimulationPlan.simulate", None)
    words = (f"run={result.folder}", "attack=noise", "epsilon=1", f"output_dir={tmp_path}")
    table = attack.main(composed(*words, command="attack")).table
    assert (tmp_path / "runs").is_dir()
    kept = table[(table.attack == "none") & (table.metric != "training")]
    before = result.table[(result.table.attack == "none") & (result.table.metric != "training")]
    assert kept.value.tolist() == before.value.tolist()


def test_a_run_without_its_estimator_is_refused(run, tmp_path):
    _, result = run
    shutil.copytree(result.folder, tmp_path / "runs" / result.folder.name)
    words = (f"run={result.folder.name}", "attack=noise", f"output_dir={tmp_path}")
    with pytest.raises(ConfigError, match=r"its estimator .* is not in"):
        attack.main(composed(*words, command="attack"))


def test_a_run_of_an_older_version_is_named(run, tmp_path):
    _, result = run
    folder = tmp_path / "runs" / "0123456789abcdef"
    shutil.copytree(result.folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["manifest_sha256"]
    manifest["description"]["format"] = 4
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="made by an older version of robust-npe"):
        attack.main(composed(f"run={folder}", f"output_dir={tmp_path}", command="attack"))


def test_a_run_of_other_code_is_refused(run, monkeypatch):
    output, result = run
    monkeypatch.setattr(GaussianLinear, "version", 99)
    words = (f"run={result.folder.name}", "attack=noise", f"output_dir={output}")
    with pytest.raises(ConfigError, match="made with other code, files or settings"):
        attack.main(composed(*words, command="attack"))


def test_another_attack_on_a_stored_run(run, monkeypatch):
    output, result = run
    monkeypatch.setattr("robust_npe.commands.fitting.train", None)
    overrides = (f"run={result.folder.name}", "attack=noise", "epsilon=1", f"output_dir={output}")
    noise = attack.main(composed(*overrides, command="attack"))
    assert set(noise.table.attack) == {"none", "noise"}
    pgd = result.table
    wanted = (pgd.metric == "kl_forward") & (pgd.statistic == "median") & (pgd.epsilon == 1)
    weak = noise.table
    weak = weak[(weak.metric == "kl_forward") & (weak.statistic == "median")]
    assert weak.value.iloc[0] < pgd[wanted].value.iloc[0]


def test_a_run_elsewhere_keeps_its_estimator_and_its_sizes(run, tmp_path, monkeypatch):
    output, result = run
    shutil.copytree(output, tmp_path / "theirs")
    monkeypatch.setattr("robust_npe.commands.fitting.train", None)
    monkeypatch.setattr("robust_npe.store.chunks.SimulationPlan.simulate", None)
    folder = tmp_path / "theirs" / "runs" / result.folder.name
    before = sorted((tmp_path / "theirs").rglob("*"))
    words = (f"run={folder}", "attack=noise", "epsilon=1", f"output_dir={tmp_path / 'mine'}")
    again = attack.main(composed(*words, command="attack"))
    assert again.folder.parent == tmp_path / "mine" / "runs"
    assert {p.name for p in (tmp_path / "mine" / "store").iterdir()} == {"attacks", "locks"}
    assert sorted((tmp_path / "theirs").rglob("*")) == before  # which may be read-only
    clean = [t[t.attack == "none"].drop(columns="run_id") for t in (again.table, result.table)]
    pd.testing.assert_frame_equal(*clean)


def test_unknown_run_lists_the_known_ones(run):
    output, result = run
    config = composed("run=nope", f"output_dir={output}", command="attack")
    with pytest.raises(ValueError, match=result.folder.name):
        attack.main(config)


def test_collect(run):
    output, _ = run
    text = collect.main(composed(f"output_dir={output}", command="collect"))
    assert "runs" in text
    table = read_table(output / "results.csv")
    assert table.run_id.nunique() == len(list((output / "runs").glob("*/manifest.json")))


def test_simulate(tmp_path):
    config = composed(
        "task=sir", "num_simulations=20", f"output_dir={tmp_path}", command="simulate"
    )
    assert "20 pairs, theta (20, 2), x (20, 50)" in simulate.main(config)
    assert "20 pairs" in simulate.main(config)
    assert len(list(tmp_path.glob("store/simulations/*/manifest.json"))) == 1
