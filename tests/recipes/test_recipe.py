from __future__ import annotations

import pytest

from robust_npe.checks import ConfigError
from robust_npe.cli import main
from robust_npe.files import StoreError
from robust_npe.recipes import Recipe
from robust_npe.recipes.composing import composed
from tests.recipes.common import TINY

ONE = ("task=gaussian_linear", "epsilon=[0.1,0.5]", *TINY)


def test_the_command_makes_exactly_the_runs_of_the_recipe(tmp_path, capsys):
    recipe = Recipe("figure4", "smoke", tmp_path, ONE)
    with pytest.raises(StoreError, match="2 of 2 runs are missing") as missing:
        recipe.table()
    assert recipe.command in str(missing.value)
    assert main(["train", "-m", *recipe.words]) == 0
    made = {path.name for path in (tmp_path / "runs").iterdir()}
    assert made == {job.run_id for job in recipe.jobs}
    assert not recipe.missing()
    other = Recipe("figure4", "smoke", tmp_path, [*ONE, "seed=1"])
    assert len(other.missing()) == 2
    table = recipe.table()
    assert set(table.attack) == {"pgd", "noise", "none"}
    assert set(recipe.observations().run_id) == made
    stored = recipe.jobs[0].stored()
    assert not any(artefact.created for artefact in stored.trained().artefacts)


FIGURES = (
    "figure4",
    "figure5",
    "betas",
    "seeds",
    "training_epsilon",
    "by_simulations",
    "by_estimator",
    "objectives",
    "alternatives",
    "fim_variants",
    "attack_strength",
)


def test_recipes_share_their_runs(tmp_path):
    recipes = [Recipe(name, "laptop", tmp_path, ["task=sir"], seeds=3) for name in FIGURES]
    made = [{job.run_id for job in recipe.jobs} for recipe in recipes]
    assert [len(runs) for runs in made] == [2, 4, 12, 3, 18, 3, 5, 3, 3, 4, 5]
    new = [len(runs.difference(*made[:i])) for i, runs in enumerate(made)]
    # the published settings are among those of the appendix
    assert new == [2, 3, 11, 2, 16, 2, 4, 2, 2, 3, 3]


def test_a_sweep_over_published_values_has_those_of_the_task(tmp_path):
    recipe = Recipe("betas", "smoke", tmp_path, ["task=hodgkin_huxley"])
    assert [job.config.beta for job in recipe.jobs] == [0.1, 1.0, 10.0, 100.0]


def test_seeds_are_those_of_recipes_that_vary_them(tmp_path):
    varied = Recipe("betas", "laptop", tmp_path, ["task=sir"], seeds=2)
    assert varied.command.endswith("task=sir seed=0,1")
    assert [job.choices["seed"] for job in varied.jobs] == ["0", "1"] * 4
    usual = Recipe("figure5", "laptop", tmp_path, ["task=sir"], seeds=2)
    assert "seed=" not in usual.command
    assert len(usual.jobs) == 4
    assert {job.choices["seed"] for job in Recipe("betas", "paper", tmp_path).jobs} == set("01234")
    own = Recipe("betas", "laptop", tmp_path, ["seed=5"], seeds=2)
    assert {job.choices["seed"] for job in own.jobs} == {"5"}


@pytest.mark.parametrize("wrong", [0, -1, "3", 2.5, True])
def test_numbers_of_seeds_are_checked(wrong, tmp_path):
    with pytest.raises(ConfigError, match=r"^seeds=.* is not valid: it must be a positive integer"):
        Recipe("betas", "laptop", tmp_path, seeds=wrong)


@pytest.mark.parametrize(
    ("name", "scale"), [("figure99", "smoke"), ("common", "smoke"), ("figure4", "huge")]
)
def test_unknown_names_are_one_line(name, scale, tmp_path):
    with pytest.raises(ConfigError, match="must be one of") as error:
        Recipe(name, scale, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("folder", ["a,b", "a=b", "\u00e4", "a'b"])
def test_folders_that_no_override_can_name_are_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"^output=.* is not valid: it must be a path of letters"):
        Recipe("figure4", "smoke", tmp_path / folder)
    assert Recipe("figure4", "smoke", tmp_path / "a b-c_d.e+f").jobs


@pytest.mark.parametrize(
    ("task", "expected"), [("sir", 0.1), ("hodgkin_huxley", 100.0), ("gaussian_linear", 0.001)]
)
def test_published_settings_follow_the_task(task, expected):
    assert composed(["defense=published/fim", f"task={task}"]).defense.beta == expected
    assert composed([f"task={task}", "beta='${published:fim_grid,3}'"]).beta >= expected


def test_what_was_not_published_must_be_set():
    config = composed(["defense=published/fim", "task=toy"])
    with pytest.raises(Exception, match="no fim was published for task toy"):
        _ = config.beta
    assert composed(["defense=published/fim", "task=toy", "beta=2"]).defense.beta == 2


def test_scales_size_what_depends_on_them():
    for scale, warm in (("smoke", True), ("laptop", True), ("paper", False)):
        config = composed(["defense=published/trades", "task=sir", f"scale={scale}"])
        assert config.defense.warm_start is warm
