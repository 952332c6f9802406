"""What captions say of runs."""

from __future__ import annotations

import pytest

from robust_npe.plotting.describing import setup_note
from robust_npe.plotting.layout import Part, figure_of
from robust_npe.plotting.names import settings_note
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
    assert setup_note(found.assign(scale="laptop")) == [expected[:-1] + ", laptop scale."]


def test_what_differs_is_not_told():
    other = {"task": "sir", "num_simulations": 7, "estimator": "nsf"}
    found = runs(divergences(1.0), counts([256], 2000), noise(1.0), counts([9], 10, **other))
    assert setup_note(found) == ["seed 0."]


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
        "FIM, FIM, largest eigenvalue: β 0.01, but SIR 0.1.",
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
