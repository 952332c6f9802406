"""What captions say of runs."""

from __future__ import annotations

import pytest

from robust_npe.plotting.describing import settings_note, setup_note
from robust_npe.plotting.layout import Part, figure_of
from robust_npe.plotting.names import radius_name
from tests.plotting.tables import divergences, noise, row, table

CLEAN = {"attack": "none", "epsilon": 0.0, "statistic": "num_observations"}


def counts(attacked, every, **keys):
    measured = {"metric": "kl_forward", "statistic": "num_observations"}
    return [
        *(row(**measured, epsilon=e, value=n, **keys) for e, n in enumerate(attacked, 1)),
        row(**{**CLEAN, "metric": "nll", "value": every}, **keys),
    ]


def runs(*rows):
    found = table(*rows)
    return found.assign(run_id=found.task + found.seed.astype(str))


def test_what_all_runs_have_in_common_is_told():
    found = runs(divergences(1.0), counts([256, 250], 2000), counts([256, 256], 2000, seed=1))
    expected = "PGD, 256 of 2\u2009000 observations attacked; MAF, 100 simulations, seeds 0, 1"
    same = found.assign(data_seed=found.seed)
    assert setup_note(same) == [f"{expected}."]
    expected += ", data seed 0."
    assert setup_note(found) == [expected]
    assert setup_note(same.astype({"seed": float})) == setup_note(same)
    assert setup_note(found.assign(scale="laptop")) == [expected[:-1] + ", laptop scale."]


def test_what_differs_between_tasks_is_told_with_the_task():
    other = {"task": "own", "num_simulations": 7, "estimator": "nsf", "seed": 3}
    found = runs(divergences(1.0), counts([256], 2000), counts([9], 10, **other))
    assert setup_note(found) == [
        "PGD, 256 of 2\u2009000 (own: 9 of 10) observations attacked; MAF (own: NSF), "
        "100 (own: 7) simulations, seed 0 (own: 3), data seed 0."
    ]


def test_units_and_limits_that_differ_between_tasks_are_told():
    other = {"task": "own", "epsilon_unit": "absolute", "norm": "linf", "domain": "none"}
    found = table(divergences(1.0, domain="data"), divergences(1.0, **other))
    assert radius_name(found) == "perturbation radius"
    assert setup_note(found)[:2] == [
        "Radii: in standard deviations of x, L2 (own: units of x, L∞).",
        "Attacked observations stay within the range of the data (own: no limits).",
    ]
    assert radius_name(table(divergences(1.0))).endswith("in standard deviations of x (L2)")


def test_what_differs_within_a_task_is_for_legends_to_tell():
    other = {"num_simulations": 7, "estimator": "nsf", "seed": 1}
    found = runs(divergences(1.0), counts([256], 2000), noise(1.0), counts([9], 10, **other))
    assert setup_note(found) == ["seeds 0, 1, data seed 0."]


def test_each_line_has_its_own_setting():
    both = [(0.1, 0.01), (0.5, 0.1)]
    found = [divergences(1.0, defense="x", defense_epsilon=e, beta=b) for e, b in both]
    told = "X: β 0.01 for training radius 0.1, 0.1 for training radius 0.5."
    assert settings_note(table(*found), "defense_epsilon") == [told]


def test_clean_observations_alone_are_not_attacked():
    assert setup_note(runs(counts([], 50))) == ["50 observations; MAF, 100 simulations, seed 0."]


def test_defenses_with_equal_settings_share_a_note():
    both = [
        divergences(1.0, task=task, defense=name, beta=beta)
        for task, beta in {"sir": 0.1, "vae": 0.01, "gl": 0.01}.items()
        for name in ("fim", "fim_eigenvalue")
    ]
    other = divergences(1.0, defense="adversarial_training", defense_epsilon=1.0)
    assert settings_note(table(*both, other), "defense") == [
        "FIM, FIM, largest eigenvalue: β 0.01 (SIR: 0.1).",
        "Adversarial training: training radius 1.",
    ]


def test_what_the_name_of_a_line_says_is_not_repeated():
    found = table(divergences(1.0, defense="trades beta=0.1", beta=0.1, defense_epsilon=0.5))
    assert settings_note(found, "defense") == ["TRADES β=0.1: training radius 0.5."]
    assert settings_note(found, "defense_epsilon") == []


@pytest.mark.parametrize("count", [1, 3])
def test_notes_of_some_parts_have_their_letters(count):
    each = [["of all", "of A"], ["of all", "of two"], ["of two", "of all"]][:count]
    figure = figure_of([Part(lambda _, told=told: told, 10.0) for told in each], ["At the end."])
    caption = {1: "of all of A At the end.", 3: "(A) of A (B, C) of two of all At the end."}
    assert figure.get_supxlabel() == caption[count]
