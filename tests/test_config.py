from __future__ import annotations

import math
import shutil

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from robust_npe.attacks import Noise
from robust_npe.checks import ConfigError
from robust_npe.commands.experiment import Experiment
from robust_npe.config import epsilons, prepare_hydra
from robust_npe.defenses import FIM, NoDefense
from robust_npe.defenses.penalty import PenaltyGradient
from robust_npe.estimators import MAF, Estimator
from robust_npe.paths import config_directory
from robust_npe.random import draws_from, stream
from robust_npe.store import content_key
from robust_npe.store.chunks import SimulationPlan
from robust_npe.tasks import VAE, GaussianLinear
from robust_npe.tasks.decoder import make_decoder, save_decoder
from robust_npe.tasks.vae import DEFAULT_DECODER
from robust_npe.training import TrainingSettings
from tests.own import own_settings


def composed(*overrides, command="train"):
    prepare_hydra()
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        return compose(command, overrides=list(overrides))


def choices(group):
    folder = config_directory() / group
    return sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))


GROUPS = (
    "task",
    "estimator",
    "inference",
    "embedding",
    "defense",
    "attack",
    "objective",
    "scale",
    "experiment",
)


# what some choices need beside them; x of the default task has 10 features, that of the toy one
ALSO = {
    "embedding=cnn2d": "embedding.shape=[2,5]",
    "embedding=pyloric_cnn": "embedding.cells=2",
    "task=toy": "epsilon_unit=feature",
    "objective=target_theta": "objective.theta=[0,0,0,0,0,0,0,0,0,0]",
    "estimator=vae": "task=images/digits",
    "estimator=vae/beta": "task=images/digits beta=1",
    **{f"task=images/{name}": "estimator=vae" for name in ("digits", "mnist", "folder")},
    "task=images/fashion_mnist": "estimator=vae",
    **{
        f"task=classification/{name}": "estimator=classifier/mlp"
        for name in ("half_moons", "digits", "mnist", "fashion_mnist")
    },
    "estimator=classifier/mlp": "task=classification/half_moons",
    "objective=max_damage": "estimator=gaussian",
    "objective=latent_shift": "estimator=gaussian_full",
    "objective=targeted_reconstruction": "estimator=gaussian",
}


@pytest.mark.parametrize(
    "override",
    [f"{group}={choice}" for group in GROUPS for choice in choices(group)]
    + [f"metric=[{choice}]" for choice in choices("metric")],
)
def test_every_choice_composes_and_builds(override, tmp_path, tmp_path_factory, monkeypatch):
    if override == "attack=transfer":
        pytest.skip("needs an earlier run: tests/commands/test_transfer.py")
    also = ALSO.get(override, "").split()
    if override.startswith(("objective=classifier/", "attack=classifier/", "inference=")):
        also = ["task=classification/half_moons", "estimator=classifier/mlp"]
    if override.startswith("metric=[") and override != "metric=[nll]":
        override = override.replace("]", ",nll]")  # which applies to every task
    task = override.removeprefix("task=")
    given = own_settings(task, tmp_path_factory.mktemp("own"), monkeypatch)
    also += [f"task.{key}={value}" for key, value in given.items()]
    Experiment(composed(override, *also, f"output_dir={tmp_path}"))
    assert not list(tmp_path.iterdir())  # building does no work


@pytest.mark.parametrize("attack", ["pgd", "noise", "fgsm", "auto", "spectral"])
def test_margins_of_encoders_can_be_asked_about_every_attack(attack, tmp_path):
    words = "experiment=vae_margins", f"attack={attack}", "beta=3", f"output_dir={tmp_path}"
    assert Experiment(composed(*words)).config["estimator"]["kl_weight"] == 3


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("task=gaussian_linear", "Identity"),
        ("task=vae", "MLP"),
        ("task=spatial_sir", "MLP"),
        ("task=hodgkin_huxley", "MLP"),
        ("task=pyloric", "PyloricCNN"),
        ("embedding=cnn1d", "CNN1d"),
    ],
)
def test_tasks_choose_their_embedding_unless_one_is_asked_for(override, expected):
    target = Experiment(composed(override)).config["embedding"]["_target_"]
    assert target.endswith(f".{expected}")
    asked = Experiment(composed(override, "embedding=identity"))
    assert asked.config["embedding"]["_target_"].endswith(".Identity")


@pytest.mark.parametrize("defense", ["none", "fim/pyloric"])
@pytest.mark.parametrize("scale", ["smoke", "laptop", "paper"])
def test_every_scale_of_a_recipe_builds(scale, defense, tmp_path):
    size = f"scale={scale}"
    words = ("experiment=figure6", size, f"defense={defense}", f"output_dir={tmp_path}")
    Experiment(composed(*words))
    assert not list(tmp_path.iterdir())


def test_a_recipe_has_its_own_sizes_and_the_published_defense():
    config = composed("experiment=figure6", "scale=paper", "defense=fim/pyloric")
    assert (config.num_simulations, config.num_validation) == (750_000, 4096)
    assert (config.beta, config.defense.beta, config.defense.max_norm) == (100, 100, 1000)
    assert config.training.weight_average is None  # of scale=paper
    assert composed("defense=fim/pyloric", "beta=80").defense.beta == 80
    assert composed("scale=paper", "defense=fim").beta == 0.01


def test_settings_that_a_file_leaves_out_can_be_overridden():
    assert composed("task=lotka_volterra").task.noise_std > 0
    config = composed("task=lotka_volterra", "task.noise_std=0.1", "defense=fim", "defense.rows=7")
    experiment = Experiment(config)
    assert (experiment.task.noise_std, experiment.config["defense"]["rows"]) == (0.1, 7)


def test_an_attack_that_forgets_its_arguments_fails_before_any_work(monkeypatch):
    class Forgetful(Noise):
        def __init__(self, share: float = 0.5) -> None:
            pass

    monkeypatch.setattr("robust_npe.attacks.Noise", Forgetful)
    with pytest.raises(ConfigError, match="Forgetful must keep its argument 'share'"):
        Experiment(composed("attack=noise"))


def test_seeds_of_one_purpose_leave_the_others_alone():
    def described(*overrides):
        experiment = Experiment(composed(*overrides))
        return experiment.posterior_description["seeds"], experiment.run_description["seeds"]

    weights, run = described("seed=3")
    assert set(run.values()) == {3}
    assert described("seed=3", "seeds.evaluation=4")[0] == weights
    assert described("seed=3", "seeds.evaluation=4")[1]["evaluation"] == 4
    assert described("seed=3", "seeds.data=0")[0] == {**weights, "data": 0}


def test_another_file_under_the_same_path_gives_other_data(tmp_path):
    path = tmp_path / "decoder.safetensors"
    words = ("task=vae", f"task.decoder={path}", f"output_dir={tmp_path}", "scale=smoke")

    def simulated(seed):
        with draws_from(stream(seed)):
            save_decoder(make_decoder(2, 4, 9), path, "made by hand")
        return Experiment(composed(*words)).simulate("test", 8).x

    first, second = simulated(0), simulated(1)
    assert not torch.equal(first, second)
    assert torch.equal(simulated(0), first)
    assert len(list(tmp_path.glob("store/simulations/*/manifest.json"))) == 2


def test_presets_and_data_files_of_the_package_are_part_of_identities(monkeypatch, tmp_path):
    def key(*overrides):
        return content_key(Experiment(composed(*overrides)).posterior_description)

    before = key("defense=fim"), key("task=vae")
    presets = {"fast": PenaltyGradient(1, 7, 1, 1.0)}
    monkeypatch.setattr(FIM, "gradients", FIM.gradients | presets)
    shutil.copy(DEFAULT_DECODER, tmp_path / "same")
    monkeypatch.setattr(VAE, "default_decoder", tmp_path / "same")
    assert (key("defense=fim") != before[0], key("task=vae") != before[1]) == (True, False)
    (tmp_path / "same").write_bytes(b"other")
    assert key("task=vae") != before[1]


def test_another_version_is_another_identity(monkeypatch):
    before = content_key(Experiment(composed()).posterior_description)
    for cls in (GaussianLinear, MAF, NoDefense, Estimator, TrainingSettings, SimulationPlan):
        with monkeypatch.context() as patched:
            patched.setattr(cls, "version", 99)
            assert content_key(Experiment(composed()).posterior_description) != before
    assert content_key(Experiment(composed()).posterior_description) == before


def test_another_default_is_another_identity(monkeypatch):
    before = Experiment(composed()).posterior_description
    slopes = GaussianLinear.__init__.__defaults__[0]
    monkeypatch.setattr(GaussianLinear.__init__, "__defaults__", (slopes, 0.5))
    after = Experiment(composed()).posterior_description
    assert after["task"]["arguments"]["noise_std"] == 0.5
    assert content_key(after) != content_key(before)


def test_beta_reaches_the_defense():
    assert Experiment(composed("defense=fim", "beta=0.25")).defense.beta == 0.25
    assert Experiment(composed("defense=fim")).defense.beta > 0
    assert Experiment(composed("defense=none", "beta=0.25")).defense.beta is None


def test_identity_ignores_what_changes_nothing():
    def keys(*overrides):
        experiment = Experiment(composed(*overrides))
        return experiment.posterior_description, experiment.run_description

    weights, run = keys()
    assert keys("beta=0.1") == (weights, run)  # no defense, so no beta
    assert keys("threads=2", "output_dir=elsewhere", "plots=false") == (weights, run)
    assert keys("attack=noise", "objective=nll") == keys("attack=noise")
    assert keys("epsilon=0.5")[0] == weights
    assert keys("epsilon=0.5")[1] != run
    for change in ("seed=1", "num_simulations=5", "training.patience=3", "defense=fim"):
        assert keys(change)[0] != weights


@pytest.mark.parametrize(("value", "expected"), [(0.5, [0.5]), ([0, 1], [0.0, 1.0])])
def test_epsilon_is_a_number_or_a_list(value, expected):
    assert epsilons(OmegaConf.create({"e": value}).e) == expected


@pytest.mark.parametrize("value", ["abc", -0.1, [], [0.1, "x"], True, math.nan, None, [1, 1]])
def test_wrong_epsilons(value):
    with pytest.raises(ConfigError, match="epsilon="):
        epsilons(value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_simulations=0", "num_simulations=0"),
        ("num_validation=0", "num_validation=0"),
        ("beta=-1", "beta=-1"),
        ("epsilon=abc", "epsilon='abc'"),
        ("device=cuda:99", "device='cuda:99' is not available"),
        ("norm=l3", "norm='l3'"),
        ("domain=nope", "domain='nope'"),
        ("evaluation.num_attacked=100000", "at most evaluation.num_test"),
        ("training.batch_size=0", "training.batch_size=0"),
        ("+nonsense=1", "nonsense"),
        ("task=toy", "epsilon_unit=std is a spread over features"),
        ("task.noise_std=-1", "task.noise_std=-1"),
    ],
)
def test_wrong_settings_fail_before_any_work(override, message, tmp_path):
    overrides = [override, f"output_dir={tmp_path}"]
    with pytest.raises(ConfigError, match=message):
        Experiment(composed(*overrides))
    assert not list(tmp_path.iterdir())


def test_unit_that_the_task_does_not_know():
    config = composed("epsilon_unit=noise")
    config.task = {"_target_": "robust_npe.tasks.SIR"}
    task = Experiment(composed("task=sir")).task
    if task.noise_norm is None:
        with pytest.raises(ConfigError, match="epsilon_unit=noise needs a task with known"):
            Experiment(config)


def test_standardisation_is_a_setting():
    default, published, robust = (
        Experiment(composed(*overrides))
        for overrides in ([], ["scale=paper", "num_simulations=10000"], ["standardize=robust"])
    )
    assert default.config["standardize"] == "auto"
    assert published.config["standardize"] == "published"
    keys = [content_key(e.posterior_description) for e in (default, robust)]
    assert keys[0] != keys[1]
    x = torch.cat([torch.zeros(99, 10), torch.full((1, 10), 1e30)])
    estimator = robust._fresh_estimator()
    estimator.fit_standardization(x, x)
    assert float(estimator.standardize(x).abs().max()) < 10
    with pytest.raises(ConfigError, match=r"^standardize='zscor' .* one of auto, zscore, .*robust"):
        Experiment(composed("standardize=zscor"))
