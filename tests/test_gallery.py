"""What the committed tables of the gallery show, and that it is complete."""

import re
from pathlib import Path

import numpy as np
import pytest

from robust_npe.plotting.bound import with_analytic_bound
from robust_npe.plotting.tolerance import BOUND
from robust_npe.recipes import read_tables, scripts

ROOT = Path(__file__).parents[1]
GALLERY = ROOT / "docs" / "gallery"
TASKS = ["gaussian_linear", "lotka_volterra", "vae", "hodgkin_huxley", "sir", "spatial_sir"]


def table(figure, name="results"):
    found = read_tables(figure, GALLERY / "tables")[name]
    assert set(found.scale) == {"laptop"}
    return found


def medians(found, epsilon=None):
    kept = (found.metric == "kl_forward") & (found.statistic == "median") & (found.epsilon > 0)
    return found[kept if epsilon is None else kept & (found.epsilon == epsilon)]


def by(found, index, columns):
    """A pivot that refuses to average."""
    return found.set_index([*index, columns]).value.unstack(columns)


def test_an_attack_finds_more_than_noise_on_every_task_and_radius():
    found = by(medians(table("figure4")), ["task", "epsilon"], "attack")
    assert len(found) == 6 * len(TASKS)
    assert (found.pgd > found.noise).all()


def test_every_defense_lowers_the_movement():
    found = by(medians(table("figure5"), 0.5), ["task"], "defense")
    assert sorted(found.index) == sorted(TASKS)
    for defense in ("fim", "adversarial_training", "trades"):
        assert (found[defense] < found.none).all(), defense


def test_every_defense_lowers_the_movement_of_every_seed_but_where_the_text_says_so():
    found = medians(table("fronts"), 0.5)
    published = table("figure5").drop_duplicates(["task", "defense"])
    settings = ["task", "defense", "beta", "defense_epsilon"]
    own = found.merge(published[settings].fillna(-1), on=settings[:2], suffixes=("", "_used"))
    used = [own[name].fillna(-1) == own[f"{name}_used"] for name in settings[2:]]
    cells = by(own[used[0] & used[1]], ["task", "seed"], "defense")
    assert len(cells) == 3 * len(TASKS)
    for defense in ("fim", "adversarial_training"):
        assert (cells[defense] < cells.none).all(), defense
    raised = cells.index[cells.trades >= cells.none].tolist()
    assert raised == [("hodgkin_huxley", 1), ("spatial_sir", 1), ("vae", 2)]


def test_movement_falls_with_beta_beyond_seed_noise():
    """On two tasks the smallest weight cannot be told from no defense."""
    found = medians(table("betas"))
    found = found.assign(beta=found.beta.fillna(0))
    unresolved = set()
    for (task, _), own in found.groupby(["task", "epsilon"]):
        seeds = own.set_index(["beta", "seed"]).value.unstack("seed")
        assert seeds.shape == (5, 3)
        falls = seeds.min(axis=1).to_numpy()[:-1] > seeds.max(axis=1).to_numpy()[1:]
        unresolved |= {(task, seeds.index[i + 1]) for i in np.flatnonzero(~falls)}
    assert unresolved == {("gaussian_linear", 1e-4), ("lotka_volterra", 1e-4)}


def test_flows_stay_near_the_analytic_bound_within_the_data():
    found = with_analytic_bound(table("analytic_bound"))
    found = found[found.estimator.isin(["maf", "nsf"]) & (found.epsilon <= 1)]
    keys = ["estimator", "epsilon"]
    flows = medians(found).set_index(keys).value
    bound = found[found.metric == BOUND].set_index(keys).value
    assert len(flows) == 10
    assert (flows < 2 * bound[flows.index]).all()


def test_coverage_with_fim_is_nearer_to_nominal_or_conservative():
    found = table("figure5")
    area = found[(found.metric == "coverage") & (found.statistic == "signed_area")]
    area = by(area[area.epsilon == 1], ["task"], "defense")
    better = (area.fim > 0) | (area.fim.abs() < area.none.abs())
    assert better.sum() >= 5, area


def test_masking_is_that_of_the_published_prior():
    found = table("bnn_table1", "networks")
    published = found.settings.eq("standard")
    assert published.sum() == 2
    assert found.verdict.str.startswith("masking").equals(published)
    assert (found.disorder == 0).all()


def test_gradients_do_not_cancel_over_draws_and_robustness_falls_with_accuracy():
    found = table("bnn_moons", "networks")
    assert (found["mean"] / found.single)[found.draws == 250].between(0.9, 1).all()
    found = table("bnn_tradeoff", "networks")
    fan_in = ~found.settings.fillna("").str.contains("standard")
    for inference in ("sgd", "hmc"):
        own = found[(found.inference == inference) & fan_in]
        assert own.accuracy.corr(own.softmax_robustness, method="spearman") < -0.8
        assert own.accuracy.corr(own.attacked, method="spearman") > 0.8


def test_every_picture_is_shown_and_has_its_tables():
    text = (ROOT / "docs" / "gallery.md").read_text()
    shown = set(re.findall(r"\]\(gallery/(\w+)\.png\)", text))
    assert shown == {path.stem for path in GALLERY.glob("*.png")}
    for name in re.findall(r"`make (\w+)(?: SEEDS=[23])?`", text):
        assert name in scripts(ROOT / "scripts") or name in ("figures", "gallery")


@pytest.mark.parametrize(("pattern", "megabytes"), [("*.png", 6), ("tables/*", 8)])
def test_the_gallery_is_small(pattern, megabytes):
    sizes = [path.stat().st_size for path in GALLERY.glob(pattern)]
    assert 0 < sum(sizes) < megabytes * 1e6
