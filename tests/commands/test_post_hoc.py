"""Post-hoc defenses from the command line: they share stored networks."""

from __future__ import annotations

import pytest

from robust_npe.checks import ConfigError
from robust_npe.commands import attack, train
from robust_npe.commands.experiment import Experiment
from robust_npe.defenses import FIM, Ensemble, NoiseAugmentation, Smoothing
from tests.test_config import composed

SMALL = ("num_simulations=128", "training.max_epochs=1", "evaluation.num_attacked=8")
SMOKE = ("scale=smoke", *SMALL, "epsilon=0.5", "metric=[nll,divergence]", "plots=false")
MORE = {
    "ensemble": ("defense.members=2",),
    "smoothing": ("defense.draws=8",),
    "posthoc": ("defense.samples=64",),
}
EXTRA = {"ensemble": set(), "smoothing": {"smoothing_bias"}, "posthoc": {"effective_size"}}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


def configured(output, *words):
    return composed(*SMOKE, "task=sir", "estimator=gaussian", f"output_dir={output}", *words)


def networks(output):
    return len(list(output.glob("store/estimators/*/manifest.json")))


@pytest.mark.parametrize("defense", MORE)
def test_train_then_attack_the_run(defense, output, monkeypatch):
    words = (f"defense={defense}", "defense@defense.base=noise", "attack=fgsm", *MORE[defense])
    result = train.main(configured(output, *words))
    clean = result.table[result.table.attack == "none"]
    assert set(result.table.defense) == {defense}
    assert result.table.defense_settings.iloc[0].endswith("base=noise")
    assert set(clean.metric) == {"nll", "training"} | EXTRA[defense]
    if defense == "posthoc":  # of a network that has hardly been trained: no answer, which it says
        assert clean[clean.metric == "effective_size"].value.notna().all()
    else:
        assert clean[clean.metric == "nll"].value.notna().all()
    monkeypatch.setattr("robust_npe.commands.fitting.train", None)  # calling it would fail
    words = (f"run={result.folder.name}", f"output_dir={output}", "epsilon=1", "attack=fgsm")
    again = attack.main(composed(*words, "plots=false", command="attack"))
    attacked = again.table[again.table.epsilon == 1]
    assert set(attacked.defense) == {defense}
    assert EXTRA[defense] <= set(attacked.metric)


def test_one_network_serves_several_defenses(output):
    def trained(*words):
        return Experiment(configured(output, "defense@defense.base=noise", *words)).trained()

    trained("defense=smoothing", "defense.sigma=0.25", "defense.draws=4")
    before = networks(output)
    for sigma in (0.5, 1):
        trained("defense=smoothing", f"defense.sigma={sigma}", "defense.draws=4")
    trained("defense=posthoc", "defense.samples=64")
    Experiment(configured(output, "defense=noise")).trained()
    assert networks(output) == before
    found = trained("defense=ensemble", "defense.members=4")
    first, *others = (artefact.key for artefact in found.artefacts)
    assert len({first, *others}) == 4
    alone = Experiment(configured(output, "defense=noise")).trained()
    assert [artefact.key for artefact in alone.artefacts] == [first]


def test_other_settings_are_other_posteriors_of_the_same_networks(output):
    def described(*words):
        experiment = Experiment(configured(output, "defense=smoothing", *words))
        return experiment.posterior_description, experiment._described_estimator(0)

    one, other = described(), described("defense.sigma=0.25")
    assert one[0] != other[0]
    assert one[1] == other[1]
    assert described("defense@defense.base=noise")[1] != one[1]


@pytest.mark.parametrize("words", [(), ("beta=0.3",)])
def test_keys_of_the_top_level_reach_the_base(words):
    config = composed("defense=ensemble", "defense@defense.base=fim", *words)
    experiment = Experiment(config)
    assert isinstance(experiment.defense, Ensemble)
    assert isinstance(experiment.defense.base, FIM)
    beta = 0.3 if words else 0.01
    assert experiment.defense.base.beta == experiment.defense.beta == beta
    assert experiment.config["defense"]["base"]["beta"] == beta


def test_bases_may_be_nested():
    words = ("defense@defense.base=ensemble", "defense@defense.base.base=fim", "beta=0.3")
    defense = Experiment(composed("defense=smoothing", "defense.base.members=2", *words)).defense
    assert isinstance(defense, Smoothing)
    assert (defense.base.members, defense.base.base.beta) == (2, 0.3)
    words = ("defense=smoothing", "defense@defense.base=noise", "defense.base.epsilon=2")
    noise = Experiment(composed(*words)).defense.base
    assert isinstance(noise, NoiseAugmentation)
    assert noise.epsilon == 2
    rows = ("defense@defense.base=fim", "defense.base.defense.rows=7")
    assert Experiment(composed("defense=ensemble", *rows)).defense.base.rows == 7


def test_resampling_needs_a_likelihood(tmp_path):
    words = ("defense=posthoc", "task=spatial_sir", f"output_dir={tmp_path}")
    with pytest.raises(ConfigError, match="task spatial_sir has none"):
        Experiment(composed(*words))
    assert not list(tmp_path.iterdir())
